//! What everybody does first.

use crate::cluster::{Cluster, PATIENCE, wait};
use peerstore::{ChangePeer, KvCommand, PeerId, RegionId};

/// Merges the only other region into region 1.
fn merge_into_1(cluster: &Cluster, right: RegionId) {
    let left = cluster.leader(1).store_id();
    wait("the two led together", || {
        let store = cluster.leader(right.0);
        if store.store_id() == left {
            return Some(());
        }
        let peers = store.region(right)?.region.peers;
        let to = peers.iter().find(|p| p.store_id == left)?.id;
        let _ = store.transfer_leader(right, to).wait(PATIENCE);
        None
    });
    wait("the merge", || {
        cluster.leader(right.0).merge(right, 1).wait(PATIENCE).ok()
    });
    wait("one region", || {
        let all = cluster.stores.values().all(|s| s.regions().len() == 1);
        all.then_some(())
    });
}

#[test]
fn three_stores_elect_replicate_and_read() {
    let cluster = Cluster::new(3);
    cluster.create_region();
    for i in 0..100 {
        cluster.put(&format!("k{i:03}"), &format!("v{i}"));
    }
    assert_eq!(cluster.get("k042").as_deref(), Some(&b"v42"[..]));
    assert_eq!(cluster.get("none"), None);
}

#[test]
fn a_store_that_comes_back_catches_up_and_another_comes_in_by_a_snapshot() {
    let mut cluster = Cluster::new(3);
    cluster.create_region();
    cluster.put("a", "1");
    cluster.stop(3);
    for i in 0..50 {
        cluster.put(&format!("b{i}"), "2");
    }
    cluster.start(3);
    cluster.start(4);
    let leader = cluster.leader(1);
    let add = ChangePeer::AddVoter {
        peer: PeerId(204),
        store: 4,
    };
    wait("the change", || {
        cluster.leader(1).change_peers(1, [add]).wait(PATIENCE).ok()
    });
    let _ = leader;
    for id in [3, 4] {
        let store = &cluster.stores[&id];
        wait("the data", || {
            let reader = store.read(1).wait(PATIENCE).ok()?;
            reader.get(b"b49").ok().flatten()
        });
    }
}

#[test]
fn a_region_is_split_and_merged_again() {
    let cluster = Cluster::new(3);
    cluster.create_region();
    for key in ["a", "m", "z"] {
        cluster.put(key, "1");
    }
    wait("the split", || {
        cluster.leader(1).split(1, "k").wait(PATIENCE).ok()
    });
    let right = wait("the new region", || {
        cluster.region_of("m").filter(|r| r.0 != 1)
    });
    cluster.put("n", "2");
    cluster.put("b", "2");
    assert_eq!(cluster.get("m").as_deref(), Some(&b"1"[..]));
    merge_into_1(&cluster, right);
    for (key, value) in [("a", "1"), ("b", "2"), ("n", "2"), ("z", "1")] {
        assert_eq!(cluster.get(key).as_deref(), Some(value.as_bytes()), "{key}");
    }
    cluster.put("q", "3");
}

#[test]
fn leadership_moves_to_a_peer_that_has_read_what_the_others_miss() {
    let mut cluster = Cluster::new(3);
    cluster.create_region();
    cluster.put("a", "1");
    let from = cluster.leader(1).store_id();
    let (to, down) = (from % 3 + 1, (from + 1) % 3 + 1);
    cluster.stop(down);
    for i in 0..50 {
        cluster.put(&format!("b{i}"), "2");
    }
    let target = 100 + to;
    let cached = |store: u64| cluster.stores[&store].stats().cache.bytes;
    let before = cached(to);
    cluster
        .leader(1)
        .transfer_leader(1, target)
        .wait(PATIENCE)
        .unwrap();
    assert_eq!(cluster.leader(1).store_id(), to);
    assert!(
        cached(to) > before,
        "the new leader's cache holds what store {down} misses"
    );
    cluster.start(down);
    wait("the third", || {
        cluster.stores[&down].read(1).wait(PATIENCE).ok()
    });
}

#[test]
fn the_clock_of_what_expires_goes_through_split_and_merge() {
    let cluster = Cluster::new(3);
    cluster.create_region();
    let put_until = |key: &str, expires_at_ms| {
        let command = KvCommand::PutUntil {
            key: key.into(),
            value: b"1".to_vec(),
            expires_at_ms,
        };
        cluster.propose(key, command);
    };
    let read_at = |key: &str, now_ms| {
        wait("a read", || {
            let region = cluster.region_of(key)?;
            let reader = cluster.leader(region.0).read(region).wait(PATIENCE).ok()?;
            reader.value_at(key.as_bytes(), now_ms).ok()
        })
    };
    let expire_until = |key: &str, now_ms| {
        cluster.propose(key, KvCommand::ExpireUntil { now_ms });
    };
    for (key, expires) in [("a", 100), ("b", 200), ("m", 100), ("n", 200)] {
        put_until(key, expires);
    }
    assert!(read_at("m", 99).is_some());
    assert!(read_at("m", 100).is_none());
    expire_until("a", 100);
    wait("the split", || {
        cluster.leader(1).split(1, "k").wait(PATIENCE).ok()
    });
    let right = wait("the new region", || {
        cluster.region_of("m").filter(|r| r.0 != 1)
    });
    for (key, is_there) in [("a", false), ("b", true), ("m", false), ("n", true)] {
        assert_eq!(read_at(key, 0).is_some(), is_there, "{key}");
    }
    put_until("o", 100);
    assert!(
        read_at("o", 0).is_none(),
        "the right half has the clock too"
    );
    expire_until("m", 200);
    merge_into_1(&cluster, right);
    assert!(read_at("b", 0).is_none(), "the later clock counts");
}
