//! Snapshots arrive whole before their message, or not at all; their sender hears of it once.

use std::sync::Arc;

use peerstore::memory::{MessageKind, NetworkOptions};
use peerstore::{PeerId, RaftSnapshotStorage as _, RegionId, StoreMessage};

use crate::support::*;

#[test]
fn a_snapshot_arrives_before_its_message_and_is_reported_once() {
    let town = Town::stepped(1, of_delay(2..=2));
    let key = snapshot_of(&town.store(1).ears);
    let message = snapshot_message(1, 2);
    let transport = &town.store(1).transport;
    transport.send_snapshot(2, message.clone(), key);
    town.network.tick();
    assert!(!town.network.deliver_next());
    town.settle();
    let message = StoreMessage::Peer(Box::new(message));
    let sent = Heard::SnapshotSent(RegionId(7), PeerId(102), true);
    let expected = [
        (2, Heard::Asked { from: 1 }),
        (2, Heard::Message { from: 1, message }),
        (1, sent),
    ];
    assert_eq!(town.heard(), expected);
    let info = |store: u64| {
        town.store(store)
            .ears
            .snapshots
            .list(None)
            .unwrap()
            .remove(0)
    };
    assert_eq!(info(1), info(2));
    assert_eq!(town.network.traffic(MessageKind::Snapshot).delivered, 1);
    assert_eq!(town.network.traffic(MessageKind::Raft).sent, 0);
}

#[test]
fn a_snapshot_that_does_not_arrive_is_reported_once() {
    let failed = [(1, Heard::SnapshotSent(RegionId(7), PeerId(102), false))];
    let asked = (2, Heard::Asked { from: 1 });
    let check = |prepare: &dyn Fn(&mut Town), while_sent: &dyn Fn(&mut Town), is_asked: bool| {
        let mut town = Town::stepped(1, of_delay(2..=2));
        let key = snapshot_of(&town.store(1).ears);
        prepare(&mut town);
        let transport = Arc::clone(&town.store(1).transport);
        transport.send_snapshot(2, snapshot_message(1, 2), key);
        while_sent(&mut town);
        town.settle();
        let heard = town.heard();
        let (was_asked, reports): (Vec<_>, Vec<_>) = heard.into_iter().partition(|h| *h == asked);
        assert_eq!(was_asked.len(), usize::from(is_asked));
        assert_eq!(reports, failed);
        assert_eq!(town.store(2).ears.snapshots.list(None).unwrap(), []);
        let traffic = town.network.traffic(MessageKind::Snapshot);
        assert_eq!((traffic.sent, traffic.delivered), (1, 0));
        town.assert_balanced();
        traffic
    };
    let nothing = |_: &mut Town| ();
    let all_lost = NetworkOptions {
        loss_per_mille: 1000,
        ..of_delay(2..=2)
    };
    assert_eq!(
        check(
            &|t| t.network.set_options(all_lost.clone()),
            &nothing,
            false
        )
        .lost,
        1
    );
    assert_eq!(
        check(&|t| t.network.cut(1, 2), &|t| t.network.heal(), false).cut,
        1
    );
    assert_eq!(check(&nothing, &|t| t.network.isolate(2), false).cut, 1);
    assert_eq!(
        check(&|t| t.network.disconnect(2), &nothing, false).unreached,
        1
    );
    assert_eq!(
        check(&nothing, &|t| t.network.disconnect(2), false).unreached,
        1
    );
    assert_eq!(
        check(&|t| t.network.set_filter(|_, _, _| None), &nothing, false).lost,
        1
    );
    let refuse = |t: &mut Town| t.stores[1] = t.connect(2, true);
    assert_eq!(check(&refuse, &nothing, true).refused, 1);
    let remove = |t: &mut Town| {
        let snapshots = &t.store(1).ears.snapshots;
        let key = snapshots.list(None).unwrap()[0].key;
        snapshots.delete(&key).unwrap();
    };
    assert_eq!(check(&remove, &nothing, true).refused, 1);
}

#[test]
fn a_snapshot_dies_with_its_sender() {
    let mut town = Town::stepped(1, of_delay(2..=2));
    let key = snapshot_of(&town.store(1).ears);
    let transport = &town.store(1).transport;
    transport.send_snapshot(2, snapshot_message(1, 2), key);
    town.stores[0] = town.connect(1, false);
    town.settle();
    assert_eq!(town.heard(), []);
    assert_eq!(town.network.traffic(MessageKind::Snapshot).unreached, 1);
}
