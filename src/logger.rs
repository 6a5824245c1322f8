//! raft-rs's log lines as `tracing` events. Uses: nothing of ours. Never does I/O itself.

use std::fmt;

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record, Serializer};

/// The logger to give to `RawNode::new`: what raft-rs logs becomes a [`tracing`] event of the target
/// `raft`, so that a filter such as `raft=info` finds it.
///
/// ```
/// let logger = peerstore::raft_logger();
/// slog::info!(logger, "became leader"; "term" => 5);
/// ```
pub fn raft_logger() -> Logger {
    Logger::root(TracingDrain, slog::o!())
}

/// Passes each record on to whatever `tracing` subscriber there is.
struct TracingDrain;

impl Drain for TracingDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, context: &OwnedKVList) -> Result<(), Never> {
        let line = Line { record, context };
        // Each level is a call site of its own, because `tracing` wants it known at compile time. The
        // line is put together only if a subscriber wants it.
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{line}"),
            Level::Warning => tracing::warn!(target: "raft", "{line}"),
            Level::Info => tracing::info!(target: "raft", "{line}"),
            Level::Debug => tracing::debug!(target: "raft", "{line}"),
            Level::Trace => tracing::trace!(target: "raft", "{line}"),
        }
        Ok(())
    }
}

/// A record as text: `message, key: value, key: value`, the logger's own keys last.
struct Line<'a> {
    record: &'a Record<'a>,
    context: &'a OwnedKVList,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.record.msg())?;
        let mut pairs = Pairs(f);
        let own = self.record.kv().serialize(self.record, &mut pairs);
        own.and_then(|()| self.context.serialize(self.record, &mut pairs))
            .map_err(|_| fmt::Error)
    }
}

/// Writes `, key: value` for each pair.
struct Pairs<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Serializer for Pairs<'_, '_> {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, ", {key}: {value}")?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::{Event, Metadata, Subscriber, span};

    use super::*;

    /// Collects `LEVEL target message` of every event that is at least `level`.
    struct Collector {
        level: tracing::Level,
        lines: Arc<Mutex<Vec<String>>>,
    }

    struct Message(String);

    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }

    impl Subscriber for Collector {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= self.level
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut message = Message(String::new());
            event.record(&mut message);
            let (level, target) = (event.metadata().level(), event.metadata().target());
            let line = format!("{level} {target} {}", message.0);
            self.lines.lock().unwrap().push(line);
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    /// What `log` made a subscriber see that wants `level` and worse.
    fn collect(level: tracing::Level, log: impl FnOnce(&Logger)) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let collector = Collector {
            level,
            lines: lines.clone(),
        };
        tracing::subscriber::with_default(collector, || log(&raft_logger()));
        std::mem::take(&mut *lines.lock().unwrap())
    }

    #[test]
    fn a_record_keeps_its_level_target_message_and_values() {
        let lines = collect(tracing::Level::DEBUG, |logger| {
            let logger = logger.new(slog::o!("raft_id" => 7));
            slog::crit!(logger, "to be seen");
            slog::error!(logger, "bad {}", "thing");
            slog::warn!(logger, "slow"; "term" => 5);
            slog::info!(logger, "leader"; "index" => 6, "to" => "peer 2");
            slog::debug!(logger, "detail");
        });
        assert_eq!(
            lines,
            [
                "ERROR raft to be seen, raft_id: 7",
                "ERROR raft bad thing, raft_id: 7",
                "WARN raft slow, term: 5, raft_id: 7",
                "INFO raft leader, to: peer 2, index: 6, raft_id: 7",
                "DEBUG raft detail, raft_id: 7",
            ]
        );
    }

    #[test]
    fn what_nobody_wants_is_not_passed_on() {
        let lines = collect(tracing::Level::WARN, |logger| {
            slog::info!(logger, "not wanted");
            slog::warn!(logger, "wanted");
        });
        assert_eq!(lines, ["WARN raft wanted"]);
    }

    #[test]
    fn raft_rs_logs_through_it() {
        let lines = collect(tracing::Level::INFO, |logger| {
            let store = raft::storage::MemStorage::new_with_conf_state((vec![1], vec![]));
            let mut config = raft::Config::new(1);
            config.election_tick = 10;
            config.heartbeat_tick = 1;
            let mut node = raft::RawNode::new(&config, store, logger).unwrap();
            node.campaign().unwrap();
        });
        let leader = lines
            .iter()
            .any(|l| l.starts_with("INFO raft became leader"));
        assert!(leader, "{lines:?}");
    }
}
