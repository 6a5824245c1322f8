//! What goes wrong: processes, power, disks, the network, and the time of others.

use std::sync::atomic::Ordering;

use peerstore::memory::{NetworkOptions, WriteFault};

use crate::world::{Checked, World};

impl World {
    /// Ends what is over, and may begin something.
    pub fn do_faults(&mut self) -> Checked {
        self.end_faults()?;
        if !self.dice.happens(55) {
            return Ok(());
        }
        let at = self.dice.below(self.nodes.len());
        match self.dice.below(16) {
            0 | 1 => self.kill(at, false),
            2..=4 => self.kill(at, true),
            5 => {
                for at in 0..self.nodes.len() {
                    self.kill(at, true);
                }
                self.count("power cuts of everything");
            }
            6 | 7 => self.cut(at),
            8 => self.isolate(at),
            9 => self.make_network_bad(),
            10 => self.pause(at),
            11 | 12 => self.fail_write(at),
            13 => self.fail_apply(at),
            _ => self.make_slow(at),
        }
        Ok(())
    }

    fn end_faults(&mut self) -> Checked {
        let round = self.round;
        if round == self.network_bad_until {
            self.network.heal();
            self.network.set_options(self.calm.clone());
            self.note("the network is well again".into());
        }
        self.slow.retain(|(_, _, until)| *until > round);
        for at in 0..self.nodes.len() {
            // What a broken disk or a stopped region needs is a restart.
            if self.nodes[at].apply_failed.load(Ordering::Relaxed)
                && self.nodes[at].restart_at.is_none()
            {
                self.count("regions stopped by their state machine");
                self.nodes[at].restart_at = Some(round + self.dice.between(5, 60));
            }
            if self.nodes[at].apply_failed.load(Ordering::Relaxed) && self.dice.happens(100) {
                self.destroy_stopped();
            }
            if self.nodes[at].restart_at.is_some_and(|r| r <= round) {
                if self.nodes[at].running.is_some() {
                    self.kill(at, true);
                }
                self.start(at)?;
            }
        }
        Ok(())
    }

    pub fn kill(&mut self, at: usize, power: bool) {
        if self.nodes[at].running.is_none() {
            return;
        }
        self.count_work(at);
        let node = &mut self.nodes[at];
        let (log, data) = (node.log.unsynced(), node.data.unsynced());
        node.kill(power, &mut self.dice);
        node.restart_at = Some(self.round + self.dice.between(0, 40));
        let id = node.id;
        self.note(format!(
            "store {id} dies, power {power}, unsynced {log} {data}"
        ));
        self.count(if power { "power cuts" } else { "kills" });
        self.hear_answers();
    }

    fn some_time(&mut self) {
        let until = self.round + self.dice.between(5, 60);
        self.network_bad_until = self.network_bad_until.max(until);
    }

    fn cut(&mut self, at: usize) {
        let other = self.dice.below(self.nodes.len());
        let (a, b) = (self.nodes[at].id, self.nodes[other].id);
        self.some_time();
        if self.dice.happens(500) {
            self.network.cut(a, b);
            self.note(format!("cut from {a} to {b}"));
            self.count("cuts one way");
        } else {
            self.network.cut_both(a, b);
            self.note(format!("cut between {a} and {b}"));
            self.count("cuts both ways");
        }
    }

    fn isolate(&mut self, at: usize) {
        let id = self.nodes[at].id;
        self.network.isolate(id);
        self.some_time();
        // With a slow clock it believes for long that it leads.
        if self.dice.happens(600) {
            self.nodes[at].slow_clock_until = self.network_bad_until;
            self.count("slow clocks");
        }
        self.note(format!("store {id} alone"));
        self.count("isolations");
    }

    fn make_network_bad(&mut self) {
        let options = NetworkOptions {
            delay_ticks: 0..=self.dice.between(0, 12),
            loss_per_mille: self.dice.between(0, 400),
            duplicate_per_mille: self.dice.between(0, 300),
            reorder: true,
        };
        self.note(format!("{options:?}"));
        self.network.set_options(options);
        self.some_time();
        self.count("bursts");
    }

    fn pause(&mut self, at: usize) {
        let until = self.round + self.dice.between(5, 60);
        self.nodes[at].paused_until = until;
        let id = self.nodes[at].id;
        self.note(format!("store {id} pauses until {until}"));
        self.count("pauses");
    }

    fn fail_write(&mut self, at: usize) {
        let fault = match self.dice.happens(500) {
            true => WriteFault::DiskFull,
            false => WriteFault::SyncFailed,
        };
        let node = &mut self.nodes[at];
        if node.running.is_none() {
            return;
        }
        node.faulty = true;
        node.restart_at = Some(self.round + self.dice.between(3, 40));
        let id = node.id;
        if self.dice.happens(500) {
            self.nodes[at].log.fail_next_write(fault);
            self.note(format!("store {id}: its log will fail: {fault:?}"));
            self.count("log writes failed");
        } else {
            self.nodes[at].data.fail_next_write(fault);
            self.note(format!("store {id}: its data will fail: {fault:?}"));
            self.count("data writes failed");
        }
    }

    fn fail_apply(&mut self, at: usize) {
        if self.nodes[at].running.is_some() {
            self.nodes[at].apply_fails.store(true, Ordering::Relaxed);
            let id = self.nodes[at].id;
            self.note(format!("store {id}: an entry will fail"));
        }
    }

    fn make_slow(&mut self, at: usize) {
        let parts = self.nodes[at].running.as_ref().map(|r| r.parts.clone());
        let Some(part) = self.dice.pick(&parts.unwrap_or_default()) else {
            return;
        };
        let until = self.round + self.dice.between(5, 50);
        self.slow.push((at, part, until));
        if self.dice.happens(500) {
            // All but one, so that one is ahead of a majority.
            let others = (0..self.nodes.len()).filter(|other| *other != at);
            let first = self.dice.below(self.nodes.len());
            let others = others.filter(|other| *other != first);
            self.slow.extend(others.map(|other| (other, part, until)));
        }
        let id = self.nodes[at].id;
        self.note(format!("store {id}: {part:?} is slow until {until}"));
        self.count("slow parts");
    }
}
