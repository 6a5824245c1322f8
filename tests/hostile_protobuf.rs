//! raft's protobuf 2.28 against nested groups without end: the waiver of RUSTSEC-2024-0437 in
//! `deny.toml` rests on this test.

use protobuf::Message as _;
use raft::eraftpb::{Entry, Message};

/// Field 15, wire type 3: the start of a group that no message of raft's knows.
const GROUP_START: u8 = 15 << 3 | 3;

/// Parses on a stack so small that recursion into a million groups would overflow it.
fn parse_on_a_small_stack<T: Send + 'static>(parse: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    thread.spawn(parse).unwrap().join().unwrap()
}

#[test]
fn a_million_nested_groups_are_an_error_and_no_stack_overflow() {
    let bytes = vec![GROUP_START; 1_000_000];
    let refused = parse_on_a_small_stack(move || {
        let entry = Entry::default().merge_from_bytes(&bytes).is_err();
        let message = Message::default().merge_from_bytes(&bytes).is_err();
        (entry, message)
    });
    assert_eq!(refused, (true, true));
}

#[test]
fn nested_groups_that_all_end_are_no_stack_overflow() {
    let mut bytes = vec![GROUP_START; 500_000];
    bytes.resize(1_000_000, GROUP_START + 1);
    // Whether they are accepted is the codec's business; that the thread survives is the test.
    let survived = parse_on_a_small_stack(move || {
        let _ = Entry::default().merge_from_bytes(&bytes);
        true
    });
    assert!(survived);
}
