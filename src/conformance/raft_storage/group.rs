//! Cases in which three nodes agree over three storages. Uses: raft.

use std::cell::RefCell;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfChangeV2, Entry, EntryType, Message};
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, MessageType};
use raft::{Config, RawNode, SnapshotStatus, StateRole};

use super::driving::Lent;
use super::{Case, StorageUnderTest, all, bounds, initial, term, voters};

pub(super) fn cases<U: StorageUnderTest + 'static>() -> Vec<Case<U>> {
    vec![
        Case::new(three_nodes_have_one_log::<U>),
        Case::new(a_group_goes_on_after_reopening::<U>),
        Case::new(a_follower_behind_the_cut_catches_up_by_snapshot::<U>),
        Case::new(a_new_leader_replaces_a_conflicting_suffix::<U>),
        Case::new(members_join_an_old_group_and_leave::<U>),
        Case::new(a_joint_change_ends_in_the_same_configuration_everywhere::<U>),
    ]
}

type Cell<'a, U> = RefCell<&'a mut U>;

/// One node: raft over its storage, and how far its state machine is.
struct Member<'a, U: StorageUnderTest> {
    cell: &'a Cell<'a, U>,
    node: RawNode<Lent<'a, U>>,
    applied: u64,
}

fn start<'a, U: StorageUnderTest>(
    cell: &'a Cell<'a, U>,
    id: u64,
    applied: u64,
) -> RawNode<Lent<'a, U>> {
    let config = Config {
        id,
        applied,
        ..Config::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, Lent(cell), &logger).expect("RawNode::new")
}

/// Three nodes with the ids 1 to 3 and a network between them that loses nothing but what goes to or
/// comes from the one that is cut off.
struct Group<'a, U: StorageUnderTest> {
    members: Vec<Member<'a, U>>,
    cut_off: Option<u64>,
    /// What was applied at each index from 1 on, by whoever came there first.
    history: Vec<Entry>,
    /// How many snapshots were installed.
    installed: usize,
}

impl<'a, U: StorageUnderTest> Group<'a, U> {
    fn new(cells: &'a [Cell<'a, U>; 3]) -> Self {
        let member = |(cell, id)| Member {
            cell,
            node: start(cell, id, 0),
            applied: 0,
        };
        Group {
            members: cells.iter().zip(1..).map(member).collect(),
            cut_off: None,
            history: Vec::new(),
            installed: 0,
        }
    }

    fn member(&mut self, id: u64) -> &mut Member<'a, U> {
        &mut self.members[id as usize - 1]
    }

    fn reopen(&mut self, id: u64) {
        let member = self.member(id);
        let reopened = member.cell.borrow_mut().reopen();
        reopened.expect("reopen");
        member.node = start(member.cell, id, member.applied);
    }

    /// Lets `id` stand for election, which it wins.
    fn elect(&mut self, id: u64) {
        self.member(id).node.campaign().expect("campaign");
        self.settle();
        assert_eq!(self.member(id).node.raft.state, StateRole::Leader);
    }

    fn propose(&mut self, leader: u64, commands: std::ops::Range<u64>) {
        for n in commands {
            let command = format!("command {n}").into_bytes();
            let proposed = self.member(leader).node.propose(Vec::new(), command);
            proposed.expect("propose");
            self.settle();
        }
    }

    fn change(&mut self, leader: u64, change: ConfChangeV2) {
        let proposed = (self.member(leader).node).propose_conf_change(Vec::new(), change);
        proposed.expect("propose_conf_change");
        self.settle();
        self.catch_up(leader);
    }

    /// Drops everything that `id` has applied from its log.
    fn compact_all(&mut self, id: u64) {
        let member = self.member(id);
        let compacted = member.cell.borrow_mut().compact(member.applied + 1);
        compacted.expect("compact");
    }

    /// Lets the leader look after those that are behind, with the snapshots and cold entries that
    /// they need at hand.
    fn catch_up(&mut self, leader: u64) {
        for _ in 0..10 {
            let member = self.member(leader);
            let mut u = member.cell.borrow_mut();
            u.snapshot_now(0).expect("snapshot");
            u.fetch();
            drop(u);
            // Two ticks are a heartbeat.
            member.node.tick();
            member.node.tick();
            self.settle();
        }
    }

    /// Handles readies and delivers messages until there are no more.
    fn settle(&mut self) {
        loop {
            let mut sent = Vec::new();
            for at in 0..self.members.len() {
                sent.extend(self.handle_readies(at));
            }
            if sent.is_empty() {
                return;
            }
            for message in sent {
                self.deliver(message);
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        if [from, to].map(Some).contains(&self.cut_off) {
            return;
        }
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        if is_snapshot {
            let sender = self.member(from).cell.borrow();
            let receiver = self.members[to as usize - 1].cell;
            let transferred = receiver
                .borrow_mut()
                .transfer(&**sender, message.get_snapshot());
            transferred.expect("transfer");
        }
        // What is from an older term is refused, and rightly.
        let _ = self.member(to).node.step(message);
        if is_snapshot {
            let sender = &mut self.member(from).node;
            sender.report_snapshot(to, SnapshotStatus::Finish);
        }
    }

    fn handle_readies(&mut self, at: usize) -> Vec<Message> {
        let mut sent = Vec::new();
        while self.members[at].node.has_ready() {
            let member = &mut self.members[at];
            let mut ready = member.node.ready();
            sent.extend(ready.take_messages());
            let mut u = member.cell.borrow_mut();
            if !ready.snapshot().is_empty() {
                let snapshot = ready.snapshot().clone();
                member.applied = snapshot.get_metadata().index;
                u.install_snapshot(snapshot).expect("install_snapshot");
                self.installed += 1;
            }
            u.append(ready.entries()).expect("append");
            if let Some(state) = ready.hs() {
                u.set_hard_state(state).expect("set_hard_state");
            }
            drop(u);
            let committed = ready.take_committed_entries();
            sent.extend(ready.take_persisted_messages());
            self.apply(at, committed);
            let mut light = self.members[at].node.advance(ready);
            if let Some(commit) = light.commit_index() {
                let mut u = self.members[at].cell.borrow_mut();
                let mut state = initial(*u).0;
                state.commit = commit;
                u.set_hard_state(&state).expect("set_hard_state");
            }
            sent.extend(light.take_messages());
            self.apply(at, light.take_committed_entries());
            self.members[at].node.advance_apply();
        }
        sent
    }

    fn apply(&mut self, at: usize, entries: Vec<Entry>) {
        for entry in entries {
            let member = &mut self.members[at];
            assert_eq!(entry.index, member.applied + 1, "applied in order, once");
            member.applied = entry.index;
            let change = conf_change(&entry);
            if let Some(change) = change {
                let state = member.node.apply_conf_change(&change);
                let state = state.expect("apply_conf_change");
                let told = member.cell.borrow_mut().set_conf_state(&state);
                told.expect("set_conf_state");
            }
            let told = member.cell.borrow_mut().advance_applied(entry.index);
            told.expect("advance_applied");
            match self.history.get(entry.index as usize - 1) {
                Some(first) => assert_eq!(&entry, first, "all apply the same"),
                None => self.history.push(entry),
            }
        }
    }

    /// That the nodes `ids` are all at the end of the history, and their logs are its end.
    fn expect_agreement(&self, ids: &[u64]) {
        let last = self.history.len() as u64;
        for id in ids {
            let member = &self.members[*id as usize - 1];
            let u = member.cell.borrow();
            assert_eq!(member.applied, last, "applied of node {id}");
            let (first_index, last_index) = bounds(*u);
            assert_eq!(last_index, last, "last index of node {id}");
            let log = all(*u);
            assert_eq!(log, self.history[first_index as usize - 1..], "node {id}");
            if first_index > 1 {
                let cut = &self.history[first_index as usize - 2];
                assert_eq!(term(*u, cut.index), cut.term, "node {id}");
            }
            assert_eq!(initial(*u).0.commit, last, "commit of node {id}");
        }
    }
}

/// The change of members that `entry` carries, if it does.
fn conf_change(entry: &Entry) -> Option<ConfChangeV2> {
    match entry.get_entry_type() {
        EntryType::EntryNormal => None,
        EntryType::EntryConfChange => {
            let mut change = ConfChange::default();
            change.merge_from_bytes(&entry.data).expect("a ConfChange");
            Some(raft_proto::ConfChangeI::into_v2(change))
        }
        EntryType::EntryConfChangeV2 => {
            let mut change = ConfChangeV2::default();
            change
                .merge_from_bytes(&entry.data)
                .expect("a ConfChangeV2");
            Some(change)
        }
    }
}

fn changes(changes: &[(ConfChangeType, u64)]) -> ConfChangeV2 {
    let single = |(kind, id): &(ConfChangeType, u64)| {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(*kind);
        single.node_id = *id;
        single
    };
    let mut change = ConfChangeV2::default();
    change.set_transition(ConfChangeTransition::Auto);
    change.changes = changes.iter().map(single).collect::<Vec<_>>().into();
    change
}

/// Runs `case` over three new storages, of which the first `voters` start as the voters; skips it if
/// there can only be one.
fn with_group<U: StorageUnderTest>(u: &mut U, voting: u64, case: impl FnOnce(&mut Group<'_, U>)) {
    let mut storages = Vec::new();
    for id in 1..=3 {
        let Some(mut storage) = u.another(id).expect("another") else {
            return;
        };
        if id <= voting {
            let ids: Vec<u64> = (1..=voting).collect();
            let told = storage.set_conf_state(&voters(&ids));
            told.expect("set_conf_state");
        }
        storages.push(storage);
    }
    let [one, two, three] = &mut storages[..] else {
        unreachable!("three were made");
    };
    let cells = [one, two, three].map(RefCell::new);
    case(&mut Group::new(&cells));
}

fn three_nodes_have_one_log<U: StorageUnderTest>(u: &mut U) {
    with_group(u, 3, |group| {
        group.elect(1);
        group.propose(1, 0..20);
        assert_eq!(group.history.len(), 21);
        group.expect_agreement(&[1]);
        group.catch_up(1);
        group.expect_agreement(&[1, 2, 3]);
    });
}

fn a_group_goes_on_after_reopening<U: StorageUnderTest>(u: &mut U) {
    with_group(u, 3, |group| {
        for round in 0..3 {
            let leader = round + 1;
            group.elect(leader);
            group.propose(leader, 0..10);
            group.catch_up(leader);
            for id in 1..=3 {
                group.reopen(id);
            }
            group.expect_agreement(&[1, 2, 3]);
        }
        assert_eq!(group.history.len(), 33);
    });
}

fn a_follower_behind_the_cut_catches_up_by_snapshot<U: StorageUnderTest>(u: &mut U) {
    with_group(u, 3, |group| {
        group.elect(1);
        for round in 0..3 {
            group.cut_off = Some(3);
            group.propose(1, 0..20);
            group.compact_all(1);
            group.cut_off = None;
            group.catch_up(1);
            assert_eq!(group.installed as u64, round + 1);
            group.propose(1, 20..25);
            group.catch_up(1);
            group.expect_agreement(&[1, 2, 3]);
            group.reopen(3);
            group.expect_agreement(&[1, 2, 3]);
        }
        // It has all that it needs to lead.
        group.elect(3);
        group.propose(3, 0..5);
        group.catch_up(3);
        group.expect_agreement(&[1, 2, 3]);
    });
}

fn a_new_leader_replaces_a_conflicting_suffix<U: StorageUnderTest>(u: &mut U) {
    with_group(u, 3, |group| {
        group.elect(1);
        group.propose(1, 0..5);
        group.catch_up(1);
        let agreed = group.history.len() as u64;
        group.cut_off = Some(1);
        group.propose(1, 100..110);
        let (_, last) = bounds(*group.member(1).cell.borrow());
        assert_eq!(last, agreed + 10, "they are in its log");
        group.elect(2);
        group.propose(2, 5..8);
        group.reopen(1);
        group.cut_off = None;
        group.catch_up(2);
        group.expect_agreement(&[1, 2, 3]);
        let last = group.history.len() as u64;
        assert_eq!(last, agreed + 4, "the ten are gone");
        group.reopen(1);
        group.elect(1);
        group.propose(1, 8..10);
        group.catch_up(1);
        group.expect_agreement(&[1, 2, 3]);
    });
}

fn members_join_an_old_group_and_leave<U: StorageUnderTest>(u: &mut U) {
    use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
    with_group(u, 1, |group| {
        group.elect(1);
        group.propose(1, 0..10);
        // A member that joins knows no configuration: it has to come with a snapshot.
        group.compact_all(1);
        group.change(1, changes(&[(AddNode, 2)]));
        group.change(1, changes(&[(AddLearnerNode, 3)]));
        group.propose(1, 10..20);
        group.catch_up(1);
        assert!(group.installed >= 2);
        group.expect_agreement(&[1, 2, 3]);
        group.change(1, changes(&[(AddNode, 3)]));
        group.change(1, changes(&[(RemoveNode, 2)]));
        group.propose(1, 20..22);
        group.catch_up(1);
        group.expect_agreement(&[1, 3]);
        for id in [1, 3] {
            group.reopen(id);
            let state = initial(*group.member(id).cell.borrow()).1;
            assert_eq!(state, voters(&[1, 3]), "node {id}");
        }
        group.elect(3);
        group.propose(3, 22..24);
        group.catch_up(3);
        group.expect_agreement(&[1, 3]);
    });
}

fn a_joint_change_ends_in_the_same_configuration_everywhere<U: StorageUnderTest>(u: &mut U) {
    use ConfChangeType::{AddNode, RemoveNode};
    with_group(u, 2, |group| {
        group.elect(1);
        group.propose(1, 0..5);
        group.compact_all(1);
        // Through a joint configuration, which the leader leaves by itself.
        group.change(1, changes(&[(AddNode, 3), (RemoveNode, 2)]));
        group.propose(1, 5..8);
        group.catch_up(1);
        group.expect_agreement(&[1, 3]);
        for id in [1, 3] {
            group.reopen(id);
            let state = initial(*group.member(id).cell.borrow()).1;
            assert_eq!(state, voters(&[1, 3]), "node {id}");
        }
    });
}
