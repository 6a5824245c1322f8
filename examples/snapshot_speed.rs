//! How fast snapshots are written, read and received, and what memory that takes.
//!
//! ```text
//! cargo run --release --example snapshot_speed -- <directory with text> [<directory to write in>]
//! ```

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use peerstore::snapshot_dir::{Compression, SnapshotDir, SnapshotOptions};
use peerstore::{DiskFs, LogPosition, RaftSnapshotStorage as _, Region, SnapshotMeta};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// How much text is taken from the directory.
const SAMPLE_BYTES: usize = 64 << 20;
/// How often the sample is written into one snapshot.
const REPEATS: usize = 4;

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let source = args.next().ok_or("give a directory with text")?;
    let target = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let mut text = Vec::new();
    collect(Path::new(&source), &mut text)?;
    let mut noise = vec![0; SAMPLE_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    println!("sample, compression, block KiB, write MB/s, read MB/s, receive MB/s, ratio");
    let before = memory_kib("VmRSS:")?;
    let codecs = [
        Compression::None,
        Compression::Gzip { level: 6 },
        Compression::Lz4,
        Compression::Zstd { level: 3 },
    ];
    for (name, sample) in [("text", &text), ("noise", &noise)] {
        for compression in codecs {
            for block_kib in [64, 256, 1024] {
                let options = SnapshotOptions {
                    compression,
                    block_bytes: block_kib << 10,
                    ..SnapshotOptions::default()
                };
                let figures = measure(&target, options, sample)?;
                println!("{name}, {compression:?}, {block_kib}, {figures}");
            }
        }
    }
    let above = memory_kib("VmHWM:")?.saturating_sub(before);
    println!(
        "most memory above the samples: {:.1} MiB",
        above as f64 / 1024.0
    );
    Ok(())
}

/// Reads files below `dir` until the sample is full.
fn collect(dir: &Path, text: &mut Vec<u8>) -> Outcome<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if text.len() >= SAMPLE_BYTES {
            break;
        } else if path.is_dir() {
            collect(&path, text)?;
        } else if path
            .extension()
            .is_some_and(|e| e == "rs" || e == "md" || e == "toml")
        {
            std::fs::File::open(path)?.read_to_end(text)?;
        }
    }
    text.truncate(SAMPLE_BYTES);
    Ok(())
}

fn measure(target: &Path, options: SnapshotOptions, sample: &[u8]) -> Outcome<String> {
    let dir = target.join(format!("snapshot-speed-{}", std::process::id()));
    let store = SnapshotDir::open(Arc::new(DiskFs), &dir, options)?;
    let region = Region::single(1, 1);
    let meta = SnapshotMeta {
        conf_state: region.conf_state(),
        region,
        position: LogPosition::new(6, 42),
    };
    let megabytes = (sample.len() * REPEATS) as f64 / 1e6;
    let started = Instant::now();
    let mut writer = store.create(meta)?;
    for chunk in std::iter::repeat_n(sample.chunks(32 << 10), REPEATS).flatten() {
        writer.write_all(chunk)?;
    }
    let info = writer.commit()?;
    let write = megabytes / started.elapsed().as_secs_f64();

    let started = Instant::now();
    let mut reader = store.open(&info.key)?;
    let mut buffer = vec![0; 32 << 10];
    while reader.read(&mut buffer)? > 0 {}
    drop(reader);
    let read = megabytes / started.elapsed().as_secs_f64();

    let mut file = store.send(&info.key)?;
    let started = Instant::now();
    let mut receiver = store.receive()?;
    std::io::copy(&mut file, &mut receiver)?;
    drop(file);
    store.delete(&info.key)?;
    receiver.commit()?;
    let receive = megabytes / started.elapsed().as_secs_f64();
    drop(store);
    std::fs::remove_dir_all(&dir)?;
    let ratio = info.content_bytes as f64 / info.file_bytes as f64;
    Ok(format!("{write:.0}, {read:.0}, {receive:.0}, {ratio:.2}"))
}

/// What the kernel says about the memory of this process.
fn memory_kib(field: &str) -> Outcome<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no such field")?.parse()?)
}
