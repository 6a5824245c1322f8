//! Cases in which raft itself drives the storage. Uses: raft.

use std::cell::RefCell;

use raft::eraftpb::{Entry, Snapshot};
use raft::{Config, GetEntriesContext, RaftState, RawNode, Storage};

use super::{Case, StorageUnderTest, bounds, initial, term, voters};

pub(super) fn cases<U: StorageUnderTest + 'static>() -> Vec<Case<U>> {
    vec![
        Case::new(a_single_voter_goes_on_after_reopening::<U>),
        Case::new(a_single_voter_goes_on_after_compaction::<U>),
    ]
}

/// Lends the storage under test to a `RawNode`, while the case still writes to it.
pub(super) struct Lent<'a, U>(pub(super) &'a RefCell<&'a mut U>);

impl<U: StorageUnderTest> Storage for Lent<'_, U> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        self.0.borrow().storage().initial_state()
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let u = self.0.borrow();
        u.storage().entries(low, high, max_size, context)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.0.borrow().storage().term(index)
    }

    fn first_index(&self) -> raft::Result<u64> {
        self.0.borrow().storage().first_index()
    }

    fn last_index(&self) -> raft::Result<u64> {
        self.0.borrow().storage().last_index()
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        self.0.borrow().storage().snapshot(request_index, to)
    }
}

/// A state machine: what was proposed and then committed, in order.
#[derive(Debug, Default, PartialEq)]
struct Machine {
    applied: u64,
    commands: Vec<Vec<u8>>,
}

/// Starts a node, lets it lead, proposes each of `commands` and applies them.
fn drive<U: StorageUnderTest>(u: &mut U, machine: &mut Machine, commands: &[Vec<u8>]) {
    let cell = RefCell::new(u);
    let config = Config {
        id: 1,
        applied: machine.applied,
        ..Config::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut node = RawNode::new(&config, Lent(&cell), &logger).expect("RawNode::new");
    node.campaign().expect("campaign");
    settle(&mut node, &cell, machine);
    for command in commands {
        let proposed = node.propose(Vec::new(), command.clone());
        proposed.expect("propose");
        settle(&mut node, &cell, machine);
    }
}

/// Handles readies until there are no more.
fn settle<U: StorageUnderTest>(
    node: &mut RawNode<Lent<'_, U>>,
    cell: &RefCell<&mut U>,
    machine: &mut Machine,
) {
    while node.has_ready() {
        let mut ready = node.ready();
        apply(cell, machine, ready.take_committed_entries());
        let mut u = cell.borrow_mut();
        u.append(ready.entries()).expect("append");
        if let Some(state) = ready.hs() {
            u.set_hard_state(state).expect("set_hard_state");
        }
        drop(u);
        let mut light = node.advance(ready);
        if let Some(commit) = light.commit_index() {
            let mut state = initial(*cell.borrow()).0;
            state.commit = commit;
            let written = cell.borrow_mut().set_hard_state(&state);
            written.expect("set_hard_state");
        }
        apply(cell, machine, light.take_committed_entries());
        node.advance_apply();
    }
}

fn apply<U: StorageUnderTest>(cell: &RefCell<&mut U>, machine: &mut Machine, entries: Vec<Entry>) {
    for entry in entries {
        assert_eq!(entry.index, machine.applied + 1, "applied in order, once");
        machine.applied = entry.index;
        // An empty entry is the one that a new leader begins with.
        if !entry.data.is_empty() {
            machine.commands.push(entry.data.to_vec());
        }
    }
    let told = cell.borrow_mut().advance_applied(machine.applied);
    told.expect("advance_applied");
}

fn commands(round: usize) -> Vec<Vec<u8>> {
    let command = |n| format!("command {n} of round {round}").into_bytes();
    (0..20).map(command).collect()
}

fn a_single_voter_goes_on_after_reopening<U: StorageUnderTest>(u: &mut U) {
    u.set_conf_state(&voters(&[1])).expect("conf state");
    let mut machine = Machine::default();
    let mut want = Vec::new();
    for round in 0..3 {
        drive(u, &mut machine, &commands(round));
        want.extend(commands(round));
        assert_eq!(machine.commands, want);
        u.reopen().expect("reopen");
        // Each round is a term: its leader's empty entry, and twenty commands.
        let last = 21 * (round as u64 + 1);
        assert_eq!(bounds(u), (1, last));
        let state = initial(u).0;
        assert_eq!((state.commit, state.vote), (last, 1));
        assert_eq!(state.term, round as u64 + 1);
    }
}

fn a_single_voter_goes_on_after_compaction<U: StorageUnderTest>(u: &mut U) {
    u.set_conf_state(&voters(&[1])).expect("conf state");
    let mut machine = Machine::default();
    // Some of the log, nothing more than before, and all of it.
    for (round, kept) in [5, 30, 0].into_iter().enumerate() {
        drive(u, &mut machine, &commands(round));
        let applied = machine.applied;
        u.compact(applied + 1 - kept).expect("compact");
        u.reopen().expect("reopen");
        assert_eq!(bounds(u).1, applied);
        assert_eq!(term(u, applied), round as u64 + 1);
    }
    drive(u, &mut machine, &commands(3));
    let want: Vec<_> = (0..4).flat_map(commands).collect();
    assert_eq!(machine.commands, want);
    assert_eq!(bounds(u), (64, 84));
}
