//! The writing of the data: several clients at once, each over its own part of the keys. Uses: client,
//! input.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use peerstore::KvCommand;

use super::client::{Client, Directory, STANDSTILL};
use super::input::{Input, Item};

/// How many clients write.
pub const CLIENTS: usize = 8;
/// What one proposal carries, at most.
const BATCH_BYTES: u64 = 128 << 10;
const BATCH_ITEMS: usize = 64;

/// The parts of the data that are written one after the other. Each has a share of every client's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Half of it, and all keys below the input's `small`.
    First,
    /// While a store is killed.
    Second,
    /// While one is away, comes back, and regions are moved.
    Third,
}

/// What each client writes in `part`: a range of the items.
pub fn shares(input: &Input, part: Part) -> Vec<std::ops::Range<usize>> {
    let (small, all) = (input.small_items, input.items.len());
    let mut shares = Vec::new();
    if part == Part::First {
        shares.push(0..small);
    }
    for client in 0..CLIENTS {
        let at = |share: usize, of: usize| small + (all - small) * share / of;
        let (start, end) = (at(client, CLIENTS), at(client + 1, CLIENTS));
        let (half, most) = (
            start + (end - start).div_ceil(2),
            start + (end - start) * 4 / 5,
        );
        let most = most.max(half);
        shares.push(match part {
            Part::First => start..half,
            Part::Second => half..most,
            Part::Third => most..end,
        });
    }
    shares.retain(|share| !share.is_empty());
    shares
}

/// Writes one part of the data. `done` counts the bytes that were acknowledged.
///
/// # Errors
/// What a client could not do in time.
pub fn write(
    directory: &Arc<Directory>,
    input: &Input,
    part: Part,
    done: &AtomicU64,
) -> Result<(), String> {
    std::thread::scope(|scope| {
        let write = |share: std::ops::Range<usize>| {
            let mut client = directory.client();
            scope.spawn(move || write_share(&mut client, input, &input.items[share], done))
        };
        let threads: Vec<_> = shares(input, part).into_iter().map(write).collect();
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => Err("a client panicked".into()),
        });
        results.collect::<Vec<_>>().into_iter().collect()
    })
}

fn write_share(
    client: &mut Client,
    input: &Input,
    mut items: &[Item],
    done: &AtomicU64,
) -> Result<(), String> {
    let mut moved = Instant::now();
    while let Some(first) = items.first() {
        if moved.elapsed() > STANDSTILL {
            let key = first.key.escape_ascii();
            let routes = super::describe(&client.survey());
            return Err(format!(
                "\"{key}\" was not written in {STANDSTILL:?}{routes}"
            ));
        }
        let Some(known) = client.locate(&first.key) else {
            continue;
        };
        let (mut commands, mut bytes) = (Vec::new(), 0);
        let range = known.region.range();
        for item in items.iter().take(BATCH_ITEMS) {
            if !range.contains(&item.key) || (bytes + item.bytes > BATCH_BYTES && bytes > 0) {
                break;
            }
            let value = input.read(item).map_err(|e| e.to_string())?;
            commands.push(KvCommand::put(&item.key[..], value));
            bytes += item.bytes;
        }
        let count = commands.len();
        if client.propose(&known, &KvCommand::Batch(commands))? {
            done.fetch_add(bytes, Ordering::Relaxed);
            items = &items[count..];
            moved = Instant::now();
        }
    }
    Ok(())
}
