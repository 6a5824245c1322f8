//! Directories: their size, what the kernel remembers of them, and how fast the disk is without us.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use super::{Outcome, clock};

/// The files below `dir`, with their sizes.
pub fn files(dir: &Path) -> Outcome<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(found)
}

/// The bytes of the files below `dir` whose names end so.
pub fn bytes_of(dir: &Path, ending: &str) -> Outcome<u64> {
    let named = |path: &Path| path.to_str().is_some_and(|p| p.ends_with(ending));
    Ok(files(dir)?
        .iter()
        .filter(|(path, _)| named(path))
        .map(|(_, bytes)| bytes)
        .sum())
}

/// Makes the kernel forget what it has read of the files below `dir`: the next read is the disk's.
pub fn forget(dir: &Path) -> Outcome {
    for (path, _) in files(dir)? {
        let file = File::open(path)?;
        file.sync_all()?;
        // SAFETY: the descriptor is open; the call is advice about its pages only.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    Ok(())
}

/// What the disk under `dir` does without us, in MB/s: written in order with one fsync at the end,
/// then read from the disk in order.
pub fn disk_speed(dir: &Path, bytes: usize) -> Outcome<(f64, f64)> {
    let block = super::noise(1 << 20);
    let path = dir.join("disk-speed");
    let (result, write) = clock(|| -> Outcome {
        let mut file = File::create(&path)?;
        for _ in 0..bytes / block.len() {
            file.write_all(&block)?;
        }
        Ok(file.sync_all()?)
    });
    result?;
    forget(dir)?;
    let mut buffer = vec![0; block.len()];
    let (result, read) = clock(|| -> Outcome {
        let mut file = File::open(&path)?;
        while file.read(&mut buffer)? > 0 {}
        Ok(())
    });
    result?;
    std::fs::remove_file(&path)?;
    let speed = |took: super::Took| bytes as f64 / 1e6 / took.wall.as_secs_f64();
    Ok((speed(write), speed(read)))
}

/// How many blocks a second `threads` threads read at random from the disk, without us: of `block_bytes`,
/// from the largest file below `dir`, nothing cached, none twice.
pub fn random_reads(dir: &Path, block_bytes: usize, count: usize, threads: usize) -> Outcome<f64> {
    use std::os::unix::fs::FileExt as _;
    forget(dir)?;
    let largest = files(dir)?.into_iter().max_by_key(|(_, bytes)| *bytes);
    let (path, bytes) = largest.ok_or("no file to read")?;
    let file = File::open(path)?;
    // SAFETY: the descriptor is open; the call is advice about its pages only.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    let blocks = (bytes as usize / block_bytes).max(1);
    let count = count.min(blocks);
    let read = |thread: usize| -> std::io::Result<()> {
        let mut block = vec![0; block_bytes];
        for n in (thread..count).step_by(threads) {
            // Without a divisor in common with any number of blocks here.
            let at = (n * 1_000_003) % blocks;
            file.read_at(&mut block, (at * block_bytes) as u64)?;
        }
        Ok(())
    };
    let (result, took) = clock(|| {
        std::thread::scope(|scope| {
            let read = &read;
            let threads: Vec<_> = (0..threads).map(|t| scope.spawn(move || read(t))).collect();
            let mut joined = threads
                .into_iter()
                .map(|t| t.join().map_err(|_| "a reader panicked"));
            joined.try_for_each(|r| -> Outcome { Ok(r??) })
        })
    });
    result?;
    Ok(count as f64 / took.wall.as_secs_f64())
}

/// How many times a second a little is appended to a file and synced, without us.
pub fn syncs(dir: &Path, count: usize) -> Outcome<f64> {
    let path = dir.join("disk-syncs");
    let block = super::noise(1 << 10);
    let mut file = File::create(&path)?;
    let (result, took) = clock(|| -> Outcome {
        for _ in 0..count {
            file.write_all(&block)?;
            file.sync_data()?;
        }
        Ok(())
    });
    result?;
    std::fs::remove_file(&path)?;
    Ok(count as f64 / took.wall.as_secs_f64())
}

/// Text from the sources below `dir`, repeated if there is too little.
pub fn text(dir: &Path, bytes: usize) -> Outcome<Vec<u8>> {
    let mut text = Vec::with_capacity(bytes + (1 << 20));
    collect(dir, bytes, &mut text)?;
    if text.is_empty() {
        return Err(format!("no .rs, .md or .toml below {}", dir.display()).into());
    }
    while text.len() < bytes {
        text.extend_from_within(..text.len().min(bytes - text.len()));
    }
    text.truncate(bytes);
    Ok(text)
}

fn collect(dir: &Path, bytes: usize, text: &mut Vec<u8>) -> Outcome {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        if text.len() >= bytes {
            break;
        } else if path.is_dir() {
            collect(&path, bytes, text)?;
        } else if path
            .extension()
            .is_some_and(|e| e == "rs" || e == "md" || e == "toml")
        {
            File::open(path)?.read_to_end(text)?;
        }
    }
    Ok(())
}
