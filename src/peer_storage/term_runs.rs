//! The terms of a log as runs, so that `term` reads no entry. Uses: types. Never does I/O.

use crate::types::LogPosition;

/// Indexes `[first, last]`, both inclusive, that share a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
    term: u64,
}

/// What is known of the terms of one log.
///
/// While a log is written, every term is known. After opening, only both ends are; each term that had
/// to be read from the log is learned, and because terms never go down along a log, two known indexes
/// of one term answer for all between them.
#[derive(Clone, Debug, Default)]
pub(crate) struct TermRuns {
    // Invariant: ascending and apart. Neighbours that touch differ in term.
    runs: Vec<Run>,
}

impl TermRuns {
    /// The term of `index`, if it is known.
    pub fn term(&self, index: u64) -> Option<u64> {
        // Most questions are about the end of the log.
        if let Some(run) = self.runs.last().filter(|run| run.first <= index) {
            return (index <= run.last).then_some(run.term);
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        let run = self.runs[..after].last()?;
        (index <= run.last).then_some(run.term)
    }

    /// Adds the entry at the end of the log.
    pub fn push(&mut self, entry: LogPosition) {
        match self.runs.last_mut() {
            Some(run) if run.term == entry.term && run.last + 1 == entry.index => {
                run.last = entry.index;
            }
            _ => self.runs.push(Run {
                first: entry.index,
                last: entry.index,
                term: entry.term,
            }),
        }
    }

    /// Forgets `index` and everything behind it.
    pub fn cut_from(&mut self, index: u64) {
        while let Some(run) = self.runs.last_mut() {
            if run.first >= index {
                self.runs.pop();
            } else {
                run.last = run.last.min(index - 1);
                return;
            }
        }
    }

    /// Forgets everything before `index`.
    pub fn compact_to(&mut self, index: u64) {
        let gone = self.runs.partition_point(|run| run.last < index);
        self.runs.drain(..gone);
        if let Some(run) = self.runs.first_mut() {
            run.first = run.first.max(index);
        }
    }

    /// Notes a term that was read from the log.
    pub fn learn(&mut self, known: LogPosition) {
        if self.term(known.index).is_some() {
            return;
        }
        let at = self.runs.partition_point(|run| run.first <= known.index);
        let mut run = Run {
            first: known.index,
            last: known.index,
            term: known.term,
        };
        let (mut from, mut to) = (at, at);
        if from > 0 && self.runs[from - 1].term == known.term {
            from -= 1;
            run.first = self.runs[from].first;
        }
        if to < self.runs.len() && self.runs[to].term == known.term {
            run.last = self.runs[to].last;
            to += 1;
        }
        self.runs.splice(from..to, [run]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(positions: &[(u64, u64)]) -> TermRuns {
        let mut runs = TermRuns::default();
        for &(index, term) in positions {
            runs.push(LogPosition::new(term, index));
        }
        runs
    }

    fn terms(runs: &TermRuns, indexes: std::ops::Range<u64>) -> Vec<Option<u64>> {
        indexes.map(|i| runs.term(i)).collect()
    }

    #[test]
    fn every_pushed_term_is_known_and_none_past_the_tail() {
        let runs = runs(&[(3, 1), (4, 1), (5, 2), (6, 4)]);
        let expected = [None, Some(1), Some(1), Some(2), Some(4), None];
        assert_eq!(terms(&runs, 2..8), expected);
        assert_eq!(runs.runs.len(), 3);
    }

    #[test]
    fn a_cut_in_a_run_shortens_it() {
        let mut runs = runs(&[(3, 1), (4, 1), (5, 1), (6, 2)]);
        runs.cut_from(5);
        assert_eq!(terms(&runs, 3..7), [Some(1), Some(1), None, None]);
        runs.push(LogPosition::new(3, 5));
        assert_eq!(runs.term(5), Some(3));
        runs.cut_from(0);
        assert_eq!(terms(&runs, 0..7), [None; 7]);
    }

    #[test]
    fn compaction_keeps_from_the_index_on() {
        let mut runs = runs(&[(3, 1), (4, 1), (5, 1), (6, 2)]);
        runs.compact_to(4);
        assert_eq!(terms(&runs, 3..7), [None, Some(1), Some(1), Some(2)]);
        runs.compact_to(6);
        assert_eq!(terms(&runs, 5..7), [None, Some(2)]);
    }

    #[test]
    fn two_ends_of_one_term_answer_for_all_between() {
        let mut runs = runs(&[(5, 2)]);
        runs.learn(LogPosition::new(7, 1000));
        assert_eq!(runs.term(500), None);
        runs.learn(LogPosition::new(2, 400));
        assert_eq!(runs.term(200), Some(2));
        runs.learn(LogPosition::new(7, 600));
        assert_eq!((runs.term(999), runs.term(500)), (Some(7), None));
        runs.learn(LogPosition::new(4, 500));
        assert_eq!((runs.term(500), runs.runs.len()), (Some(4), 3));
    }
}
