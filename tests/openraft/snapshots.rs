//! The file of a snapshot on its way, and what is refused when it has come.

use std::io::SeekFrom;

use openraft::storage::RaftStateMachine as _;
use openraft::{RaftSnapshotBuilder as _, Snapshot};
use peerstore::KeyRange;
use peerstore::openraft::{StateMachine, TypeConfig};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::entries::{everything, log_id, members, put};
use crate::support::{Backend, Site, StorageResult, run_with};

/// A machine with some keys, and its snapshot.
async fn built(site: &Site) -> StorageResult<(StateMachine, Snapshot<TypeConfig>)> {
    let (_log, mut machine) = site.open().expect("a new group opens");
    machine.apply([members(log_id(1, 1, 0), &[1, 2])]).await?;
    for i in 1..200 {
        let value = format!("value {}", i * 7919);
        machine
            .apply([put(log_id(1, 1, i), &format!("key {i}"), &value)])
            .await?;
    }
    let snapshot = machine
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await?;
    Ok((machine, snapshot))
}

async fn bytes_of(snapshot: &mut Snapshot<TypeConfig>) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot.snapshot.rewind().await.expect("it can be rewound");
    snapshot
        .snapshot
        .read_to_end(&mut bytes)
        .await
        .expect("it can be read");
    bytes
}

#[test]
fn a_file_arrives_in_pieces_of_which_some_come_twice() {
    run_with(async {
        let (here, there) = (Site::new(Backend::AppendLog), Site::new(Backend::AppendLog));
        let (leader, mut snapshot) = built(&here).await?;
        let bytes = bytes_of(&mut snapshot).await;
        assert_eq!(
            snapshot
                .snapshot
                .seek(SeekFrom::End(0))
                .await
                .expect("its length is known"),
            bytes.len() as u64
        );
        let (_log, mut follower) = there.open().expect("a new group opens");
        let mut arriving = follower.begin_receiving_snapshot().await?;
        for (number, piece) in bytes.chunks(100).enumerate() {
            let offset = number as u64 * 100;
            arriving.write_all(piece).await.expect("it is taken");
            // The answer was lost: openraft seeks back, and sends it again.
            arriving.seek(SeekFrom::Start(offset)).await.expect("back");
            arriving.write_all(piece).await.expect("it is known");
        }
        arriving.shutdown().await.expect("all of it was written");
        follower.install_snapshot(&snapshot.meta, arriving).await?;
        assert_eq!(follower.applied_state().await?.0, Some(log_id(1, 1, 199)));
        let (data, expected) = (everything(&follower.reader()), everything(&leader.reader()));
        assert_eq!((data.len(), data), (199, expected));
        let mut current = follower
            .get_current_snapshot()
            .await?
            .expect("it was installed");
        assert_eq!(current.meta, snapshot.meta);
        assert_eq!(bytes_of(&mut current).await, bytes, "it can be sent on");
        Ok(())
    });
}

#[test]
fn a_gap_and_the_wrong_direction_are_errors() {
    run_with(async {
        let site = Site::new(Backend::AppendLog);
        let (mut machine, mut snapshot) = built(&site).await?;
        let mut arriving = machine.begin_receiving_snapshot().await?;
        arriving.write_all(b"abc").await.expect("it is taken");
        arriving
            .seek(SeekFrom::Start(4))
            .await
            .expect("a seek by itself does nothing");
        let gap = arriving.write_all(b"e").await.unwrap_err().to_string();
        assert!(gap.contains("a write at 4, and 3 bytes have come"), "{gap}");
        let unsupported = std::io::ErrorKind::Unsupported;
        let read = arriving.read(&mut [0]).await;
        assert_eq!(read.unwrap_err().kind(), unsupported);
        let written = snapshot.snapshot.write(b"x").await;
        assert_eq!(written.unwrap_err().kind(), unsupported);
        Ok(())
    });
}

#[test]
fn a_file_that_is_damaged_or_not_what_the_leader_says_changes_nothing() {
    run_with(async {
        let (here, there) = (Site::new(Backend::AppendLog), Site::new(Backend::AppendLog));
        let (_leader, mut snapshot) = built(&here).await?;
        let bytes = bytes_of(&mut snapshot).await;
        let (mut log, mut follower) = there.open().expect("a new group opens");
        openraft::storage::RaftLogStorage::save_vote(&mut log, &openraft::Vote::new(1, 1)).await?;
        follower
            .apply([put(log_id(1, 1, 1), "mine", "stays")])
            .await?;
        let mut try_install = async |bytes: &[u8], meta: &openraft::SnapshotMeta<_, _>| {
            let mut arriving = follower.begin_receiving_snapshot().await?;
            arriving
                .write_all(bytes)
                .await
                .expect("what it is shows later");
            let refused = follower.install_snapshot(meta, arriving).await;
            let current = follower.get_current_snapshot().await?;
            assert!(current.is_none(), "a file that was refused is kept");
            assert_eq!(follower.applied_state().await?.0, Some(log_id(1, 1, 1)));
            assert_eq!(everything(&follower.reader()).len(), 1);
            StorageResult::Ok(refused.expect_err("it is refused").to_string())
        };
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        let error = try_install(&damaged, &snapshot.meta).await?;
        assert!(error.contains("corrupt"), "{error}");
        let error = try_install(&bytes[..bytes.len() - 1], &snapshot.meta).await?;
        assert!(error.contains("corrupt"), "{error}");
        let mut other = snapshot.meta.clone();
        other.last_log_id = Some(log_id(1, 2, 199));
        let error = try_install(&bytes, &other).await?;
        assert!(error.contains("the leader says"), "{error}");
        Ok(())
    });
}

#[test]
fn a_snapshot_is_of_the_moment_at_which_its_builder_was_asked_for() {
    run_with(async {
        let site = Site::new(Backend::AppendLog);
        let (mut machine, first) = built(&site).await?;
        let mut builder = machine.get_snapshot_builder().await;
        machine
            .apply([put(log_id(1, 1, 200), "later", "x")])
            .await?;
        let snapshot = builder.build_snapshot().await?;
        assert_eq!(snapshot.meta.last_log_id, Some(log_id(1, 1, 199)));
        assert_ne!(snapshot.meta.snapshot_id, first.meta.snapshot_id);
        // The first is still being sent, and goes with the next one.
        drop((first, snapshot));
        machine
            .get_snapshot_builder()
            .await
            .build_snapshot()
            .await?;
        let files = std::fs::read_dir(site.dir.path().join("snapshots")).expect("the directory");
        let names = files.map(|file| file.expect("a file").file_name().into_string());
        let snapshots = names.filter(|n| n.as_ref().is_ok_and(|n| n.ends_with(".snap")));
        assert_eq!(snapshots.count(), 1);
        Ok(())
    });
}

#[test]
fn a_group_takes_no_snapshot_of_another_range() {
    run_with(async {
        let (here, there) = (Site::new(Backend::AppendLog), Site::new(Backend::AppendLog));
        let (_leader, snapshot) = built(&here).await?;
        let groups = there.groups().expect("the stores open");
        let opened = groups.open_range(1, KeyRange::new("", "key 2"));
        let (_log, mut follower) = opened.expect("a new group opens");
        let refused = follower
            .install_snapshot(&snapshot.meta, snapshot.snapshot)
            .await;
        let refused = refused.expect_err("it has other keys").to_string();
        assert!(
            refused.contains("it is of group 1 with the keys"),
            "{refused}"
        );
        Ok(())
    });
}

#[test]
fn commands_outside_the_range_are_refused_and_the_group_goes_on() {
    run_with(async {
        let site = Site::new(Backend::AppendLog);
        let groups = site.groups().expect("the stores open");
        let opened = groups.open_range(1, KeyRange::new("a", "m"));
        let (_log, mut machine) = opened.expect("a new group opens");
        let entries = [
            put(log_id(1, 1, 0), "z", "no"),
            put(log_id(1, 1, 1), "b", "yes"),
        ];
        let replies = machine.apply(entries).await?;
        let refused = format!("{:?}", replies[0]);
        assert!(refused.contains("OutOfRange"), "{refused}");
        assert_eq!(replies[1], Some(peerstore::KvReply::Done));
        assert_eq!(
            machine.reader().get(b"b").await.expect("it reads"),
            Some(b"yes".to_vec())
        );
        Ok(())
    });
}
