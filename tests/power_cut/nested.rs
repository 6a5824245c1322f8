//! Cuts during the recovery from a cut, and during the recovery from that one.

use crate::cuts::{Recording, Tally, look, node_dir};
use crate::disk::{Disk, Image};
use crate::journal::{Journal, Node};
use crate::mount::{Faults, Mount};

/// What has to be there after the next recovery.
#[derive(Clone)]
pub enum Duty {
    /// What this step of the life acknowledged, perhaps with the next step.
    Acked(usize),
    /// What an open that has returned has shown: nobody may see another vote afterwards.
    Shown(Node),
}

impl Duty {
    fn check(&self, journal: &Journal, node: &Node) -> Result<(), String> {
        match self {
            Duty::Acked(step) => journal.check(*step, node),
            Duty::Shown(shown) => {
                let fixed = |node: &Node| {
                    let regions = node.iter().map(|(id, seen)| (*id, seen.fixed.clone()));
                    regions.collect::<Vec<_>>()
                };
                match fixed(node) == fixed(shown) {
                    true => Ok(()),
                    false => Err(format!(
                        "{:?}\nwas shown as\n{:?}",
                        fixed(node),
                        fixed(shown)
                    )),
                }
            }
        }
    }
}

/// What is cut, and how much.
pub struct Plan<'a> {
    pub journal: &'a Journal,
    /// Recoveries within recoveries.
    pub depth: usize,
    /// Cuts in each recovery.
    pub cuts: usize,
    pub seed: u64,
}

impl Plan<'_> {
    /// Writes down the recovery of what a cut has left, cuts it, and goes deeper at one of the cuts.
    pub fn run(&self, name: &str, image: Image, duty: &Duty, depth: usize) -> Tally {
        let mut tally = Tally::default();
        let mount = Mount::new(image.into_disk(), Faults::default());
        let before: Disk = mount.disk();
        let opened = look(&node_dir(&mount.path()));
        let open_until = mount.position();
        let shown = match opened {
            Ok((node, storages, shown)) => {
                drop((storages, node));
                shown
            }
            Err(error) => {
                tally.failures.push(format!("{name}: open: {error}"));
                return tally;
            }
        };
        let recording = Recording {
            name: name.to_string(),
            before,
            ops: mount.ops(),
        };
        drop(mount);
        let duty_at = |place: usize| match place < open_until {
            true => duty.clone(),
            false => Duty::Shown(shown.clone()),
        };
        let places = recording.places(self.cuts, self.seed as usize % 7);
        let judge = |place: usize, node: &Node| duty_at(place).check(self.journal, node);
        tally.add(recording.cut(&places, self.seed, &judge));
        if depth < self.depth && !places.is_empty() {
            let place = places[self.seed as usize % places.len()];
            let (lost, image) = recording.image_at(place, self.seed);
            let name = format!("{name}, cut {place} of the recovery, lost {lost:?}");
            tally.add(self.run(&name, image, &duty_at(place), depth + 1));
        }
        tally
    }
}
