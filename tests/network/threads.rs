//! The network that delivers at once, between threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use peerstore::memory::{MemoryNetwork, MessageKind};
use peerstore::{PeerId, RegionId};

use crate::support::*;

#[test]
fn an_immediate_network_delivers_across_threads_in_order() {
    let town = Town::new(MemoryNetwork::immediate(), 3);
    let key = snapshot_of(&town.store(1).ears);
    town.send(1, 2, 0);
    assert_eq!(town.numbers(1, 2), [0], "before send returns");
    thread::scope(|scope| {
        for from in 1..=3 {
            let town = &town;
            scope.spawn(move || {
                for number in 1..500 {
                    town.send(from, from % 3 + 1, number);
                }
            });
        }
        let transport = &town.store(1).transport;
        transport.send_snapshot(3, snapshot_message(1, 3), key);
    });
    let sent: Vec<u64> = (1..500).collect();
    assert_eq!(town.numbers(1, 2)[1..], sent);
    assert_eq!(
        (town.numbers(2, 3), town.numbers(3, 1)),
        (sent.clone(), sent)
    );
    let arrived = (1, Heard::SnapshotSent(RegionId(7), PeerId(103), true));
    let is_there = || town.trace.lock().unwrap().contains(&arrived);
    wait_until("the snapshot arrives", is_there);
    assert!(!town.network.deliver_next());
    town.assert_balanced();
    town.network.cut(1, 2);
    town.send(1, 2, 1000);
    town.network.disconnect(3);
    town.send(1, 3, 1001);
    let unreachable = Heard::Unreachable(RegionId(7), PeerId(103));
    assert_eq!(town.trace.lock().unwrap().last(), Some(&(1, unreachable)));
    assert_eq!(town.network.traffic(MessageKind::Raft).cut, 1);
}

#[test]
fn nothing_goes_to_the_inbox_of_a_stopped_store() {
    for _ in 0..20 {
        let town = Town::new(MemoryNetwork::immediate(), 3);
        let key = snapshot_of(&town.store(1).ears);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let (town, is_over) = (&town, &is_over);
            for from in [1, 2] {
                scope.spawn(move || {
                    for number in 0.. {
                        town.send(from, 3, number);
                        if is_over.load(Ordering::SeqCst) {
                            break;
                        }
                    }
                });
            }
            let transport = &town.store(1).transport;
            transport.send_snapshot(3, snapshot_message(1, 3), key);
            wait_until("messages flow", || town.trace.lock().unwrap().len() > 50);
            let Store { transport, ears } = town.store(3);
            transport.stop();
            ears.stopped.store(true, Ordering::SeqCst); // now it panics when it is called
            let snapshots = Arc::strong_count(ears);
            is_over.store(true, Ordering::SeqCst);
            assert_eq!(snapshots, 1, "nobody else holds the store");
        });
        let reports = || {
            let trace = town.trace.lock().unwrap();
            let is_report = |h: &&(u64, Heard)| matches!(h, (1, Heard::SnapshotSent(..)));
            trace.iter().filter(is_report).count()
        };
        wait_until("the snapshot is reported", || reports() == 1);
    }
}
