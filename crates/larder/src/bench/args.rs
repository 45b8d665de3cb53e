//! Arguments of `larder bench`, and how sizes, durations and workloads are written.
//!
//! Promises: whatever cannot be measured as asked is refused before the first request.
//!
//! Not here: target URLs (`target`), what a workload does (`workload`).

use std::{path::PathBuf, str::FromStr, time::Duration};

use anyhow::{bail, ensure};

use super::{
    multipart::parts_of,
    pattern::BLOCK,
    s3::{PayloadMode, S3Settings},
    target::{Fallback, Target},
};

/// Parts that an S3 upload may have.
const PARTS: u64 = 10_000;

/// Measures one or two file servers over HTTP, alternating between them.
///
/// Every download is compared byte for byte with what was uploaded; any error makes the exit
/// code 1. Quote ratios of one run, never absolute rates of two.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BenchArgs {
    /// Server to measure: `larder+http://user:password@host:port/SPACE`,
    /// `s3+http://id:secret@host:port/BUCKET/prefix` (any S3 endpoint), or
    /// `http://host:port/prefix` (nginx DAV, SeaweedFS filer). Twice: the two are alternated and
    /// their ratio is printed.
    /// User and password may come from --user and --password or their environment, the S3 key
    /// from --s3-key-id and --s3-secret-file or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long = "target", value_name = "URL", required = true)]
    pub(super) targets: Vec<String>,

    /// Names for the report, one per target.
    #[arg(long = "label", value_name = "A[,B]", value_delimiter = ',')]
    pub(super) labels: Vec<String>,

    /// What to measure: put, tus (resumable uploads), multipart (S3 uploads in parts), get, head,
    /// delete, list, mixed (45 % get, 30 % head, 15 % put, 10 % delete). Default:
    /// put,get,head,delete; with --grow: put,get,list.
    #[arg(long = "workload", value_name = "W[,W]", value_delimiter = ',')]
    pub(super) workloads: Vec<Workload>,

    /// File sizes: bytes, or with k, m, g (powers of 1024). Default 4k; with --grow 100.
    #[arg(long = "size", value_name = "SIZE[,SIZE]", value_delimiter = ',')]
    pub(super) sizes: Vec<Size>,

    /// Bytes of the parts of multipart uploads, a multiple of 64k. S3 wants 5m at least.
    #[arg(long, value_name = "SIZE", default_value = "8m")]
    pub(super) part_size: Size,

    /// Whether requests to S3 sign their bodies: one for all targets, or one for each. Signed
    /// bodies are hashed beforehand and repeat: up to 256 of them per size.
    #[arg(long = "s3-payload", value_name = "A[,B]", value_delimiter = ',')]
    pub(super) s3_payloads: Vec<PayloadMode>,

    /// Access key for S3 targets whose URL has none [env: AWS_ACCESS_KEY_ID]
    #[arg(long, value_name = "ID", requires = "s3_secret_file")]
    pub(crate) s3_key_id: Option<String>,

    /// File with its secret [env: AWS_SECRET_ACCESS_KEY]
    #[arg(long, value_name = "FILE", requires = "s3_key_id")]
    pub(crate) s3_secret_file: Option<PathBuf>,

    /// Region of S3 targets [env: AWS_REGION] [default: us-east-1]
    #[arg(long, value_name = "NAME")]
    pub(crate) s3_region: Option<String>,

    /// Requests in flight, each on its own connection.
    #[arg(long, value_name = "N[,N]", value_delimiter = ',', default_value = "16")]
    pub(super) concurrency: Vec<usize>,

    /// Length of each measurement (`500ms`, `5s`, `2m`).
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(super) duration: Duration,

    /// Operations per measurement, instead of --duration.
    #[arg(long, value_name = "N")]
    pub(super) count: Option<u64>,

    /// Measurements of each kind per target; the median is reported.
    #[arg(long, default_value_t = 3)]
    pub(super) rounds: u32,

    /// Unmeasured load before each measurement.
    #[arg(long, default_value = "500ms", value_parser = parse_duration)]
    pub(super) warmup: Duration,

    /// Files to read, put beforehand. Default: 256 MiB worth of them, 2 to 1000.
    #[arg(long, value_name = "N")]
    pub(super) files: Option<u64>,

    /// Directories that files are spread over.
    #[arg(long, default_value_t = 16)]
    pub(super) dirs: u64,

    /// Fill to each of these numbers of files and measure there: how cost grows.
    #[arg(long, value_name = "N[,N]", value_delimiter = ',')]
    pub(super) grow: Vec<u64>,

    /// Process ids of the servers, for CPU per request and memory; 0 where unknown.
    #[arg(long = "pid", value_name = "A[,B]", value_delimiter = ',')]
    pub(super) pids: Vec<u32>,

    /// Count the children of --pid too (nginx workers).
    #[arg(long)]
    pub(super) pid_tree: bool,

    /// Threads of the generator; it shares the processors with a local server.
    #[arg(long, default_value_t = 1)]
    pub(super) threads: usize,

    /// Time limit of a request, to which one second per 4 MiB of its body is added.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub(super) request_timeout: Duration,

    /// Ask the kernel to acknowledge at once: hides the delayed-ack trap of servers that do not
    /// set TCP_NODELAY.
    #[arg(long)]
    pub(super) quickack: bool,

    /// Write out the page cache before each measurement, so that one server does not pay for
    /// what the other left unwritten.
    #[arg(long)]
    pub(super) sync_between: bool,

    /// Directory whose disk is measured beside the servers. Default: the temporary directory.
    #[arg(long, value_name = "DIR")]
    pub(super) probe_dir: Option<PathBuf>,

    /// Do not measure the disk.
    #[arg(long)]
    pub(super) no_probe: bool,

    /// Leave the files on the servers.
    #[arg(long)]
    pub(super) keep: bool,

    /// What comes from flags that all verbs share.
    #[arg(skip)]
    pub(super) shared: SharedFlags,
}

/// Flags that every verb has, as far as this one heeds them.
#[derive(Clone, Default)]
pub(crate) struct SharedFlags {
    /// Report as JSON instead of a table.
    pub(crate) json: bool,
    /// No progress on standard error.
    pub(crate) quiet: bool,
    /// `Authorization` for Larder targets whose URL names no user.
    pub(crate) authorization: Option<String>,
    /// How to speak to S3 targets, apart from `--s3-payload`.
    pub(crate) s3: S3Settings,
}

impl std::fmt::Debug for SharedFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { json, quiet, authorization: _, s3: _ } = self;
        f.debug_struct("SharedFlags").field("json", json).field("quiet", quiet).finish()
    }
}

/// An operation, or a mix of them, to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Uploads under new names.
    Put,
    /// The same by upload sessions: one request to begin, one for the bytes.
    Tus,
    /// Uploads in parts, all connections at one file.
    Multipart,
    /// Downloads of random files.
    Get,
    /// Metadata of random files.
    Head,
    /// Removal of files, each once.
    Delete,
    /// Pages of directory listings.
    List,
    /// All but list.
    Mixed,
}

impl Workload {
    /// Its name on the command line and in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Tus => "tus",
            Self::Multipart => "multipart",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Mixed => "mixed",
        }
    }

    /// Whether it reads files that must be there beforehand.
    pub(super) fn reads(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::List | Self::Mixed)
    }
}

/// A number of bytes, written `4096`, `4k`, `64KiB`, `1m`, `1g`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit: u64 = match &lower[digits.len()..] {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            other => bail!("unknown unit {other:?} in size {text:?}: use k, m or g"),
        };
        let number: u64 = digits.parse().map_err(|e| anyhow::anyhow!("size {text:?}: {e}"))?;
        match number.checked_mul(unit) {
            Some(bytes) if bytes <= 1 << 40 => Ok(Self(bytes)),
            _ => bail!("size {text:?} is over 1 TiB"),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (shift, unit) in [(30, "g"), (20, "m"), (10, "k")] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        other => bail!("unknown unit {other:?} in duration {text:?}: use ms, s or m"),
    };
    let number: f64 = digits.parse().map_err(|e| anyhow::anyhow!("duration {text:?}: {e}"))?;
    let seconds = number * unit;
    ensure!((0.0..=86_400.0).contains(&seconds), "duration {text:?} is not within a day");
    Ok(Duration::from_secs_f64(seconds))
}

impl BenchArgs {
    /// Adds what the flags that all verbs share say.
    pub(crate) fn with_shared(mut self, shared: SharedFlags) -> Self {
        self.shared = shared;
        self
    }

    /// Target number `n`.
    ///
    /// # Errors
    /// Its URL is none.
    pub(super) fn target(&self, n: usize) -> anyhow::Result<Target> {
        let payload = match self.s3_payloads.as_slice() {
            [] => PayloadMode::default(),
            [all] => *all,
            each => each.get(n).copied().unwrap_or_default(),
        };
        let s3 = S3Settings { payload, ..self.shared.s3.clone() };
        let authorization = self.shared.authorization.as_deref();
        let url = self.targets.get(n).map(String::as_str).unwrap_or_default();
        Target::parse(url, Fallback { authorization, s3: Some(&s3) })
    }

    /// Fills in the defaults that depend on the mode and refuses what makes no sense. Doing it
    /// again changes nothing.
    ///
    /// # Errors
    /// Mistakes of usage only.
    pub(crate) fn resolve(mut self) -> anyhow::Result<Self> {
        let n = self.targets.len();
        ensure!((1..=2).contains(&n), "give --target once or twice, not {n} times");
        for n in 0..n {
            let target = self.target(n)?;
            ensure!(
                target.has_sessions() || !self.workloads.contains(&Workload::Tus),
                "tus measures larder+http targets"
            );
            ensure!(
                target.bucket().is_some() || !self.workloads.contains(&Workload::Multipart),
                "multipart measures s3+http targets"
            );
        }
        ensure!(
            self.s3_payloads.len() <= 1 || self.s3_payloads.len() == n,
            "--s3-payload is one for all targets or one for each"
        );
        self.check_parts()?;
        ensure!(
            self.labels.is_empty() || self.labels.len() == n,
            "--label names every target or none"
        );
        ensure!(self.pids.is_empty() || self.pids.len() == n, "--pid names every target or none");
        let grow = !self.grow.is_empty();
        if self.workloads.is_empty() {
            use Workload::{Delete, Get, Head, List, Put};
            self.workloads = if grow { vec![Put, Get, List] } else { vec![Put, Get, Head, Delete] };
        }
        if self.sizes.is_empty() {
            self.sizes = vec![Size(if grow { 100 } else { 4096 })];
        }
        ensure!(
            self.concurrency.iter().all(|c| (1..=4096).contains(c)),
            "--concurrency is 1 to 4096"
        );
        ensure!((1..=64).contains(&self.threads), "--threads is 1 to 64");
        ensure!((1..=10_000).contains(&self.dirs), "--dirs is 1 to 10000");
        ensure!(self.rounds >= 1, "--rounds is at least 1");
        ensure!(self.files != Some(0) && self.count != Some(0), "--files and --count are not 0");
        ensure!(
            self.count.is_some() || !self.duration.is_zero(),
            "--duration is more than nothing"
        );
        if grow {
            ensure!(self.grow.is_sorted(), "--grow numbers go up");
            ensure!(self.sizes.len() == 1, "--grow takes one --size");
            use Workload::{Get, Head, List, Put};
            ensure!(
                self.workloads.iter().all(|w| matches!(w, Put | Get | Head | List)),
                "--grow measures put, get, head and list"
            );
        }
        Ok(self)
    }

    fn check_parts(&self) -> anyhow::Result<()> {
        let part = self.part_size.0;
        ensure!(part > 0 && part.is_multiple_of(BLOCK as u64), "--part-size is a multiple of 64k");
        if self.workloads.contains(&Workload::Multipart) {
            for size in &self.sizes {
                let parts = parts_of(size.0, part);
                ensure!(
                    parts <= PARTS,
                    "{size} in parts of {}: at most {PARTS} parts",
                    self.part_size
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown_in_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("4k", 4096),
            ("64KiB", 65_536),
            ("1M", 1 << 20),
            ("1g", 1 << 30),
        ] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
        for text in ["", "k", "-1", "4x", "1.5m", "99999999g", "4 k k"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
        for (bytes, text) in [(100, "100"), (4096, "4k"), (1 << 20, "1m"), (1536, "1536")] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("5").unwrap(), Duration::from_secs(5));
        assert_eq!(parse_duration("1.5m").unwrap(), Duration::from_secs(90));
        for text in ["", "s", "5h", "-1s", "NaN", "inf", "1e9s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
