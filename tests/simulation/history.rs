//! What clients did to each key, and whether one register of each key could have answered so.
//!
//! The history of a key is linearizable if every operation can be given a moment between its begin and
//! its end so that a single register, asked in that order, answers the same. One whose outcome is not
//! known may have such a moment at any time after its begin, or none. All orders are tried at once: a
//! configuration is which of the open operations have had their moment, and what the register then
//! holds; an end keeps those in which its operation has had it, with the answer that was given.

use std::collections::{BTreeMap, BTreeSet};

pub type Value = Option<Vec<u8>>;

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Put(Vec<u8>),
    Swap { expected: Value, new: Vec<u8> },
    Add(i64),
    Get,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Done,
    Swapped,
    NotSwapped(Value),
    Sum(i64),
    Value(Value),
}

#[derive(Clone, Debug)]
enum Event {
    Begin(usize),
    End(usize),
}

#[derive(Clone, Debug)]
struct Call {
    op: Op,
    // None while it is open, or if nobody will know.
    answer: Option<Answer>,
    failed: bool,
}

/// The calls on every key.
#[derive(Default)]
pub struct History {
    keys: BTreeMap<String, OfKey>,
}

#[derive(Default)]
struct OfKey {
    calls: Vec<Call>,
    events: Vec<Event>,
    unknown: usize,
}

impl History {
    /// An operation begins; its number.
    pub fn begin(&mut self, key: &str, op: Op) -> usize {
        let of = self.keys.entry(key.to_owned()).or_default();
        of.calls.push(Call {
            op,
            answer: None,
            failed: false,
        });
        of.events.push(Event::Begin(of.calls.len() - 1));
        of.calls.len() - 1
    }

    pub fn answered(&mut self, key: &str, number: usize, answer: Answer) {
        if let Some(of) = self.keys.get_mut(key) {
            of.calls[number].answer = Some(answer);
            of.events.push(Event::End(number));
        }
    }

    /// It was not done and never will be.
    pub fn failed(&mut self, key: &str, number: usize) {
        if let Some(of) = self.keys.get_mut(key) {
            of.calls[number].failed = true;
        }
    }

    /// Nobody will know.
    pub fn lost(&mut self, key: &str, number: usize) {
        if let Some(of) = self.keys.get_mut(key)
            && of.calls[number].op != Op::Get
        {
            of.unknown += 1;
        }
    }

    /// Each write that nobody knows of doubles what has to be tried: such keys are left alone.
    pub fn is_worn(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|of| of.unknown >= 7)
    }

    pub fn answers(&self) -> usize {
        let answered = |of: &OfKey| of.calls.iter().filter(|c| c.answer.is_some()).count();
        self.keys.values().map(answered).sum()
    }

    /// What cannot have been, if anything.
    pub fn check(&self) -> Result<(), String> {
        for (key, of) in &self.keys {
            of.check().map_err(|at| of.explain(key, at))?;
        }
        Ok(())
    }
}

type Configuration = (u64, Value);

impl OfKey {
    /// The number of the first call that fits nowhere.
    fn check(&self) -> Result<(), usize> {
        let mut slots: Vec<Option<usize>> = Vec::new();
        let mut at: BTreeSet<Configuration> = BTreeSet::from([(0, None)]);
        for event in &self.events {
            match event {
                Event::Begin(number) => {
                    if self.may_matter(*number) {
                        let free = slots.iter().position(Option::is_none);
                        let slot = free.unwrap_or(slots.len());
                        if slot == slots.len() {
                            slots.push(None);
                        }
                        slots[slot] = Some(*number);
                        assert!(slots.len() <= 64, "too many open calls for a mask");
                    }
                }
                Event::End(number) => {
                    let Some(slot) = slots.iter().position(|s| *s == Some(*number)) else {
                        continue;
                    };
                    at = self.end(&slots, slot, at);
                    if at.is_empty() {
                        return Err(*number);
                    }
                    slots[slot] = None;
                }
            }
        }
        Ok(())
    }

    /// The configurations in which the call in `slot` has had its moment, without it.
    fn end(
        &self,
        slots: &[Option<usize>],
        slot: usize,
        at: BTreeSet<Configuration>,
    ) -> BTreeSet<Configuration> {
        let mut ended = BTreeSet::new();
        let mut open: Vec<Configuration> = at.iter().cloned().collect();
        let mut seen = at;
        let bit = 1u64 << slot;
        while let Some((mask, value)) = open.pop() {
            if mask & bit != 0 {
                ended.insert((mask & !bit, value));
                continue;
            }
            for (other, number) in slots.iter().enumerate() {
                let Some(number) = number.filter(|_| mask & (1 << other) == 0) else {
                    continue;
                };
                let call = &self.calls[number];
                let (answer, after) = call.op.on(&value);
                if call.answer.as_ref().is_some_and(|given| *given != answer) {
                    continue;
                }
                let next = (mask | 1 << other, after);
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        ended
    }

    /// A read that nobody saw does not matter, nor does what failed; nor a value that may have been put
    /// and that nobody ever saw: whatever fits with it fits without.
    fn may_matter(&self, number: usize) -> bool {
        let call = &self.calls[number];
        if call.failed {
            return false;
        }
        if call.answer.is_some() {
            return true;
        }
        match &call.op {
            Op::Get => false,
            Op::Add(_) => true,
            Op::Put(value) | Op::Swap { new: value, .. } => self.was_seen(value),
        }
    }

    fn was_seen(&self, value: &Vec<u8>) -> bool {
        self.calls
            .iter()
            .any(|call| match (&call.op, &call.answer) {
                (_, Some(Answer::Value(seen) | Answer::NotSwapped(seen))) => {
                    seen.as_ref() == Some(value)
                }
                (Op::Swap { expected, .. }, answer) => {
                    expected.as_ref() == Some(value)
                        && answer.as_ref().is_none_or(|a| *a == Answer::Swapped)
                }
                _ => false,
            })
    }

    fn explain(&self, key: &str, at: usize) -> String {
        let mut lines = vec![format!(
            "{key}: call {at} fits nowhere; the calls on the key:"
        )];
        for event in &self.events {
            let line = match event {
                Event::Begin(n) if self.calls[*n].failed => format!("  {n} failed"),
                Event::Begin(n) => format!("  {n} begins: {}", show(&self.calls[*n].op)),
                Event::End(n) => format!("  {n} ends: {}", show(&self.calls[*n].answer)),
            };
            lines.push(line);
            if matches!(event, Event::End(n) if *n == at) {
                break;
            }
        }
        lines.join("\n")
    }
}

impl Op {
    /// The answer of a register that holds `value`, and what it holds then.
    fn on(&self, value: &Value) -> (Answer, Value) {
        match self {
            Op::Put(new) => (Answer::Done, Some(new.clone())),
            Op::Get => (Answer::Value(value.clone()), value.clone()),
            Op::Swap { expected, new } if expected == value => (Answer::Swapped, Some(new.clone())),
            Op::Swap { .. } => (Answer::NotSwapped(value.clone()), value.clone()),
            Op::Add(by) => {
                let text = value.as_deref().unwrap_or(b"0");
                let number = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
                let sum: i64 = number.unwrap_or(0i64) + by;
                (Answer::Sum(sum), Some(sum.to_string().into_bytes()))
            }
        }
    }
}

/// Bytes as the text that they are.
fn show(what: &dyn std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some((before, inside)) = rest.split_once('[') {
        let (bytes, after) = inside.split_once(']').unwrap_or((inside, ""));
        let bytes = bytes.split(", ").filter_map(|b| b.parse::<u8>().ok());
        let bytes: Vec<u8> = bytes.collect();
        shown += before;
        shown += String::from_utf8_lossy(&bytes).trim_end_matches('.');
        rest = after;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn what_overlaps_may_come_in_any_order() {
        let mut history = History::default();
        let a = history.begin("k", Op::Put(b"a".to_vec()));
        let b = history.begin("k", Op::Put(b"b".to_vec()));
        history.answered("k", b, Answer::Done);
        history.answered("k", a, Answer::Done);
        let read = history.begin("k", Op::Get);
        history.answered("k", read, Answer::Value(value("b")));
        assert_eq!(history.check(), Ok(()));
        let read = history.begin("k", Op::Get);
        history.answered("k", read, Answer::Value(value("a")));
        assert!(history.check().is_err(), "b came before a and after it");
    }

    #[test]
    fn a_stale_read_and_a_lost_write_are_found() {
        let mut history = History::default();
        let a = history.begin("k", Op::Add(1));
        history.answered("k", a, Answer::Sum(1));
        let read = history.begin("k", Op::Get);
        history.answered("k", read, Answer::Value(None));
        assert!(history.check().is_err());
    }

    #[test]
    fn what_nobody_knows_may_happen_late_but_once() {
        let mut history = History::default();
        let lost = history.begin("k", Op::Add(10));
        history.lost("k", lost);
        for sum in [1, 2, 13] {
            let add = history.begin("k", Op::Add(1));
            history.answered("k", add, Answer::Sum(sum));
        }
        assert_eq!(history.check(), Ok(()));
        let add = history.begin("k", Op::Add(1));
        history.answered("k", add, Answer::Sum(24));
        assert!(history.check().is_err());
    }

    #[test]
    fn what_failed_was_not_done() {
        let mut history = History::default();
        let put = history.begin("k", Op::Put(b"a".to_vec()));
        history.failed("k", put);
        let read = history.begin("k", Op::Get);
        history.answered("k", read, Answer::Value(value("a")));
        assert!(history.check().is_err());
    }
}
