//! The golden bytes of the format, and what does not pass for a frame.

use super::*;

const IDENTITY: Identity = Identity {
    store: 0x0102_0304_0506_0708,
    segment: SegmentId(3),
    incarnation: 2,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn run(region: u64, first: u64, count: u32, stored: u32) -> Run {
    Run {
        region: RegionId(region),
        first,
        count,
        term: 5,
        stored,
        offset: 0,
    }
}

/// One of each operation.
fn ops() -> Vec<Op> {
    let region = RegionId(7);
    let state = State {
        term: 5,
        vote: 1,
        commit: 300,
        last_index: 302,
    };
    vec![
        Op::Run(run(7, 300, 2, 40)),
        Op::Run(Run {
            offset: 40,
            ..run(7, 302, 1, 20 | COMPRESSED)
        }),
        Op::State { region, state },
        Op::Remove {
            region,
            range: 0..200,
        },
        Op::Clear {
            region: RegionId(8),
        },
        Op::Copy {
            run: Run {
                offset: 60,
                ..run(9, 10, 4, 30)
            },
            window: 11..13,
        },
        Op::Move {
            run: Run {
                offset: 4200,
                ..run(9, 10, 4, 30)
            },
            window: 10..14,
            from: SegmentId(3),
            to: SegmentId(130),
        },
    ]
}

fn dir_of(ops: &[Op]) -> Vec<u8> {
    let mut writer = DirWriter::default();
    ops.iter().for_each(|op| writer.add(op));
    writer.bytes
}

#[test]
fn a_header_has_its_golden_bytes_and_comes_back() {
    for (usage, golden) in [
        (Usage::Spare, "00000000"),
        (
            Usage::Hot {
                previous: SegmentId(2),
                end: 9000,
            },
            "01000000",
        ),
        (Usage::Cold, "02000000"),
    ] {
        let header = Header {
            identity: IDENTITY,
            usage,
        };
        let bytes = header.encode();
        assert_eq!(
            &hex(&bytes)[..32],
            format!("50535345474c4f4701000000{golden}")
        );
        assert_eq!(Header::decode(&bytes), HeaderFound::Valid(header));
    }
    let hot = Header {
        identity: IDENTITY,
        usage: Usage::Hot {
            previous: SegmentId(2),
            end: 9000,
        },
    };
    assert_eq!(
        hex(&hot.encode()),
        concat!(
            "50535345474c4f47",
            "01000000",
            "01000000",
            "0807060504030201",
            "0300000000000000",
            "0200000000000000",
            "0200000000000000",
            "2823000000000000",
            "acbf8f1a",
        )
    );
}

#[test]
fn operations_have_their_golden_bytes_and_come_back() {
    let dir = dir_of(&ops());
    assert_eq!(
        hex(&dir),
        concat!(
            "0107ac02050228",
            "7914",
            "0a0501ac02ae02",
            "0b00c801",
            "0408",
            "86090a05041e0102",
            "0d0a05041e038201e820",
        )
        .replace("7914", "7914")
    );
    assert_eq!(read_dir(&dir, 90), Some(ops()));
    assert_eq!(
        read_dir(&dir, 91),
        None,
        "the data is exactly that of the runs"
    );
    for end in 1..dir.len() {
        // Cut anywhere it is shorter, or nothing: never something else.
        if let Some(read) = read_dir(&dir[..end], 90) {
            assert_eq!(read, ops()[..read.len()]);
        }
    }
}

#[test]
fn a_frame_has_its_golden_bytes_and_is_one_at_its_place_only() {
    let (dir, data) = (dir_of(&ops()), [0xaa; 90]);
    let head = FrameHead::plan(FrameKind::Group, 5000, 4500, dir.len(), data.len());
    let mut frame = Vec::new();
    head.encode(&mut frame);
    frame.extend(&dir);
    frame.extend(data);
    head.seal(IDENTITY.seed(), &mut frame);
    assert_eq!(hex(&frame[..9]), "18b5714201f403285a");
    assert_eq!(FrameHead::parse(IDENTITY.seed(), 5000, &frame), Some(head));
    assert_eq!(head.end(), 5000 + frame.len() as u64);
    let seed = IDENTITY.seed();
    assert_eq!(
        FrameHead::parse(seed, 5001, &frame),
        None,
        "at another place"
    );
    assert_eq!(
        FrameHead::parse(seed, 5000, &frame[..frame.len() - 1]),
        None,
        "cut short"
    );
    let others = [
        Identity {
            store: 1,
            ..IDENTITY
        },
        Identity {
            segment: SegmentId(4),
            ..IDENTITY
        },
        Identity {
            incarnation: 3,
            ..IDENTITY
        },
    ];
    for other in others {
        assert_eq!(
            FrameHead::parse(other.seed(), 5000, &frame),
            None,
            "of {other:?}"
        );
    }
    for bit in 0..(head.head_bytes + head.dir_bytes) as usize * 8 {
        frame[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            FrameHead::parse(seed, 5000, &frame),
            None,
            "bit {bit} is wrong"
        );
        frame[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn no_bytes_make_the_readers_panic() {
    let mut state = 7u64;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    for length in 0..4_000 {
        let bytes: Vec<u8> = (0..length % 97).map(|_| byte() & byte()).collect();
        read_dir(&bytes, u64::from(byte()));
        FrameHead::parse(1, 4096, &bytes);
    }
}
