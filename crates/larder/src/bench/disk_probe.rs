//! What the disk under the servers allows: the rates that `larder bench` prints beside them.
//!
//! Promises: takes one to two seconds, writes at most a quarter GiB in one file of the given
//! directory and removes it. The three tests are the ones that bound a durable file server: a
//! small and a middling overwrite of written blocks, each with its own `fdatasync`, and new
//! space filled by O_DIRECT with one `fsync` at the end.
//!
//! Not here: reads; queue depths over one.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::stats::Histogram;

const AREA: u64 = 8 << 20;
const DIRECT_CHUNK: usize = 1 << 20;
const DIRECT_MAX: u64 = 256 << 20;
/// Alignment that O_DIRECT asks for on every disk in use.
const ALIGN: usize = 4096;
const SPAN: Duration = Duration::from_millis(400);

/// Rate and latency of overwrites with an `fdatasync` each.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SyncRate {
    /// Write-and-sync pairs per second.
    pub(super) per_s: f64,
    /// Median of a pair, microseconds.
    pub(super) p50_us: f64,
    /// 99th percentile of a pair, microseconds.
    pub(super) p99_us: f64,
}

/// The disk's rates.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Probe {
    /// The directory probed.
    pub(super) dir: PathBuf,
    /// 4 KiB overwrites of a pre-zeroed file, each synced.
    pub(super) sync_4k: SyncRate,
    /// The same of 64 KiB.
    pub(super) sync_64k: SyncRate,
    /// 1 MiB O_DIRECT writes to a new file, MiB/s with the final `fsync`; `None` where the file
    /// system refuses O_DIRECT.
    pub(super) direct_mib_s: Option<f64>,
}

/// Removes the probe's file however the probe ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: the directory may be gone, and there is nobody to tell.
        drop(std::fs::remove_file(&self.0));
    }
}

/// Measures the disk under `dir`.
///
/// # Errors
/// The directory cannot be written.
pub(super) fn probe(dir: &Path) -> io::Result<Probe> {
    let scratch = Scratch(dir.join(format!(".larder-bench-probe-{}", std::process::id())));
    let file = OpenOptions::new().write(true).create_new(true).open(&scratch.0)?;
    file.write_all_at(&vec![0; AREA as usize], 0)?;
    file.sync_all()?;
    let sync_4k = sync_rate(&file, 4 << 10)?;
    let sync_64k = sync_rate(&file, 64 << 10)?;
    drop(file);
    drop(scratch);
    let scratch = Scratch(dir.join(format!(".larder-bench-direct-{}", std::process::id())));
    let direct_mib_s = direct_rate(&scratch.0)?;
    Ok(Probe { dir: dir.to_owned(), sync_4k, sync_64k, direct_mib_s })
}

fn sync_rate(file: &File, size: u64) -> io::Result<SyncRate> {
    let block = vec![0xa5; size as usize];
    let mut latency = Histogram::default();
    let started = Instant::now();
    let mut at = 0;
    while started.elapsed() < SPAN {
        let begun = Instant::now();
        file.write_all_at(&block, at)?;
        file.sync_data()?;
        latency.record(begun.elapsed());
        at = (at + size) % AREA;
    }
    let per_s = latency.total() as f64 / started.elapsed().as_secs_f64();
    Ok(SyncRate { per_s, p50_us: latency.quantile_us(0.5), p99_us: latency.quantile_us(0.99) })
}

fn direct_rate(path: &Path) -> io::Result<Option<f64>> {
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
    let opened = OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        Err(error) => return Err(error),
    };
    let buffer = vec![0xa5; DIRECT_CHUNK + ALIGN];
    let skip = buffer.as_ptr().align_offset(ALIGN);
    let chunk = &buffer[skip..skip + DIRECT_CHUNK];
    let started = Instant::now();
    let mut written = 0;
    while started.elapsed() < SPAN && written < DIRECT_MAX {
        match file.write_all_at(chunk, written) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            other => other?,
        }
        written += DIRECT_CHUNK as u64;
    }
    file.sync_all()?;
    Ok(Some(written as f64 / (1 << 20) as f64 / started.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_a_directory_and_leaves_nothing_behind() {
        let dir = std::env::temp_dir().join(format!("larder-probe-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let probe = probe(&dir).unwrap();
        assert!(probe.sync_4k.per_s > 0.0 && probe.sync_64k.p50_us > 0.0);
        assert!(probe.sync_4k.p99_us >= probe.sync_4k.p50_us);
        std::fs::remove_dir(&dir).expect("the probe removed its files");
        assert!(super::probe(&dir).is_err(), "a missing directory is an error");
    }
}
