//! Whether every replica on every store holds every byte, and nothing else. Uses: client, input, node.

use std::collections::BTreeMap;

use super::Outcome;
use super::client::Client;
use super::input::{Input, Item};
use super::node::hash_pair;
use super::protocol::{Answer, Ask, Damage, Digest, KeyDigest, Keys, Known, Range, Value};

/// So many differences of a store are told; the rest are counted.
const SHOWN_MAX: usize = 5;

/// Compares the data of every store with the files: by digests of ranges, and where one differs, key by
/// key. The number of replicas that were compared.
///
/// # Errors
/// What differs, or a store that does not answer.
pub fn compare(
    client: &mut Client,
    survey: &BTreeMap<u64, Vec<Known>>,
    input: &Input,
) -> Outcome<usize> {
    let mut expected: BTreeMap<Range, Digest> = BTreeMap::new();
    let (mut differences, mut replicas) = (Vec::new(), 0);
    for (store, regions) in survey {
        let mut found = Vec::new();
        for range in ranges_with_gaps(regions) {
            let wanted = match range.is_held {
                true => items_in(input, &range.keys),
                false => &[],
            };
            replicas += usize::from(range.is_held);
            let digest = match expected.get(&range.keys).filter(|_| range.is_held) {
                Some(digest) => digest.clone(),
                None => digest_of(input, wanted)?,
            };
            let got = match client.ask(*store, Ask::Digest(range.keys.clone()))? {
                Answer::Digest(got) => got,
                other => return Err(format!("store {store} answered {other:?}").into()),
            };
            if got != digest {
                found.extend(look_closely(client, *store, &range.keys, input, wanted)?);
            }
            if range.is_held {
                expected.insert(range.keys, digest);
            }
        }
        let more = found.len().saturating_sub(SHOWN_MAX);
        let shown = found.into_iter().take(SHOWN_MAX);
        differences.extend(shown.map(|what| format!("\n  store {store}: {what}")));
        if more > 0 {
            differences.push(format!("\n  store {store}: {more} more"));
        }
    }
    match differences.is_empty() {
        true => Ok(replicas),
        false => Err(format!("the stores differ from the files:{}", differences.concat()).into()),
    }
}

struct Part {
    keys: Range,
    is_held: bool,
}

/// The ranges of the regions of a store, ascending, and what lies between them, where nothing may be.
fn ranges_with_gaps(regions: &[Known]) -> Vec<Part> {
    let mut ranges: Vec<_> = regions.iter().map(|known| known.region.range()).collect();
    ranges.sort_by(|a, b| a.start.cmp(&b.start));
    let (mut parts, mut at) = (Vec::new(), Some(Vec::new()));
    for range in ranges {
        if let Some(start) = at
            && start < range.start
        {
            let keys = Range {
                start,
                end: range.start.clone(),
            };
            parts.push(Part {
                keys,
                is_held: false,
            });
        }
        at = (!range.end.is_empty()).then(|| range.end.clone());
        let (start, end) = (range.start, range.end);
        let keys = Range { start, end };
        parts.push(Part {
            keys,
            is_held: true,
        });
    }
    if let Some(start) = at {
        let end = Vec::new();
        let keys = Range { start, end };
        parts.push(Part {
            keys,
            is_held: false,
        });
    }
    parts
}

fn items_in<'a>(input: &'a Input, range: &Range) -> &'a [Item] {
    let items = &input.items;
    let start = items.partition_point(|item| item.key < range.start);
    let end = match range.end.is_empty() {
        true => items.len(),
        false => items.partition_point(|item| item.key < range.end),
    };
    &items[start..end.max(start)]
}

fn digest_of(input: &Input, items: &[Item]) -> Outcome<Digest> {
    let mut hasher = blake3::Hasher::new();
    for item in items {
        hash_pair(&mut hasher, &item.key, &input.read(item)?);
    }
    Ok(Digest {
        keys: items.len() as u64,
        hash: hasher.finalize().as_bytes().to_vec(),
    })
}

/// What differs in a range.
fn look_closely(
    client: &mut Client,
    store: u64,
    range: &Range,
    input: &Input,
    wanted: &[Item],
) -> Outcome<Vec<String>> {
    let there = keys_of(client, store, range)?;
    let mut found = Vec::new();
    let mut say = |key: &[u8], what: &str| {
        let key = key.escape_ascii();
        found.push((key.to_string(), what.to_string()));
    };
    for item in wanted {
        match there.iter().find(|digest| digest.key == item.key) {
            None => say(&item.key, "is missing"),
            Some(digest) => {
                let expected = input.read(item)?;
                if digest.hash != blake3::hash(&expected).as_bytes() {
                    let got = client.ask(store, Ask::Value(item.key.clone()))?;
                    let Answer::Value(Value { value }) = got else {
                        return Err(format!("store {store} answered {got:?}").into());
                    };
                    say(
                        &item.key,
                        &difference(&value.unwrap_or_default(), &expected),
                    );
                }
            }
        }
    }
    for digest in &there {
        if wanted
            .binary_search_by(|item| item.key.cmp(&digest.key))
            .is_err()
        {
            say(&digest.key, "is there, but should not be");
        }
    }
    found.sort();
    let found = found.into_iter();
    Ok(found
        .map(|(key, what)| format!("\"{key}\" {what}"))
        .collect())
}

fn keys_of(client: &mut Client, store: u64, range: &Range) -> Outcome<Vec<KeyDigest>> {
    let (mut all, mut rest) = (Vec::new(), range.clone());
    loop {
        let answer = client.ask(store, Ask::Keys(rest.clone()))?;
        let Answer::Keys(Keys { keys, more }) = answer else {
            return Err(format!("store {store} answered {answer:?}").into());
        };
        all.extend(keys);
        match all.last() {
            Some(last) if more => rest.start = [&last.key[..], &[0]].concat(),
            _ => return Ok(all),
        }
    }
}

fn difference(got: &[u8], expected: &[u8]) -> String {
    if got.len() != expected.len() {
        return format!("has {} bytes, expected {}", got.len(), expected.len());
    }
    match (0..got.len()).find(|at| got[*at] != expected[*at]) {
        Some(at) => {
            let (got, expected) = (got[at], expected[at]);
            format!("byte {at} is {got:#04x}, expected {expected:#04x}")
        }
        None => "has changed since it was hashed".into(),
    }
}

/// Changes a byte of a large value, removes a key and adds one, all on one store, to see that
/// [`compare`] finds them.
pub fn damage(client: &mut Client, store: u64, input: &Input) -> Outcome<()> {
    let largest = input.items.iter().max_by_key(|item| item.bytes);
    let damage = Damage {
        changed: largest.ok_or("no item")?.key.clone(),
        removed: input.items[0].key.clone(),
        added: "\u{10ffff} in no file".into(),
    };
    client.ask(store, Ask::Damage(damage))?;
    println!("store {store} was damaged: a byte, a key less, a key more");
    Ok(())
}
