//! What `larder bench` found, as a table for people and as JSON for programs.
//!
//! Promises: a figure is the median over the rounds; errors are summed and maxima are maxima;
//! the ratio of two targets is the ratio of their medians, with the span that the ratios of the
//! single rounds had beside it.
//!
//! Not here: measuring.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{args::Size, disk_probe::Probe, runner::Outcome, stats::median};

/// What was measured, apart from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    /// Name of the workload.
    pub(super) workload: &'static str,
    /// Bytes per file.
    pub(super) size: Size,
    /// Requests in flight.
    pub(super) concurrency: usize,
    /// Files that were there, with `--grow`.
    pub(super) files: Option<u64>,
}

/// One measurement of one target.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) cell: Cell,
    pub(super) target: usize,
    pub(super) round: u32,
    pub(super) outcome: Outcome,
}

/// The figures of one measurement, or the medians of several.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Figures {
    ops: f64,
    ops_per_s: f64,
    mib_per_s: f64,
    items_per_s: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    max_us: f64,
    server_cpu_us_per_op: Option<f64>,
    generator_cpu_us_per_op: Option<f64>,
    rss_mib: Option<f64>,
}

#[derive(Debug, Serialize)]
struct TargetReport {
    target: String,
    median: Figures,
    rounds: Vec<Figures>,
    errors: BTreeMap<String, u64>,
    samples: Vec<String>,
    reconnects: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Ratio {
    /// First target's median rate over the second's: of entries for list, else of requests.
    rate: f64,
    min: f64,
    max: f64,
    /// First target's median CPU per request over the second's.
    server_cpu: Option<f64>,
}

#[derive(Debug, Serialize)]
struct CellReport {
    workload: &'static str,
    size: u64,
    concurrency: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    targets: Vec<TargetReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Ratio>,
}

#[derive(Debug, Serialize)]
struct TargetInfo {
    label: String,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mib: Option<f64>,
}

/// Everything one run found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: String,
    disk_before: Option<Probe>,
    disk_after: Option<Probe>,
    interrupted: bool,
    targets: Vec<TargetInfo>,
    cells: Vec<CellReport>,
    errors: u64,
}

/// What a report is made from, apart from the records.
#[derive(Debug)]
pub(super) struct Circumstances {
    pub(super) machine: String,
    pub(super) disk_before: Option<Probe>,
    pub(super) disk_after: Option<Probe>,
    pub(super) interrupted: bool,
    /// Label, URL and peak memory in bytes of each target.
    pub(super) targets: Vec<(String, String, Option<u64>)>,
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

impl Figures {
    fn of(outcome: &Outcome) -> Self {
        let tally = &outcome.tally;
        let ops = tally.latency.total() as f64;
        let seconds = outcome.elapsed.as_secs_f64().max(1e-9);
        // Failed requests cost CPU too: they count here, though not in the rate.
        let requests = ops + tally.failed() as f64;
        let per_op = |us: u64| (requests > 0.0).then(|| us as f64 / requests);
        Self {
            ops,
            ops_per_s: ops / seconds,
            mib_per_s: mib(tally.bytes) / seconds,
            items_per_s: tally.items as f64 / seconds,
            p50_us: tally.latency.quantile_us(0.5),
            p90_us: tally.latency.quantile_us(0.9),
            p99_us: tally.latency.quantile_us(0.99),
            max_us: tally.latency.max_us(),
            server_cpu_us_per_op: outcome.server_cpu_us.and_then(per_op),
            generator_cpu_us_per_op: per_op(outcome.own_cpu_us),
            rss_mib: outcome.rss.map(mib),
        }
    }

    /// What two measurements are compared by: entries where there are any, since servers differ
    /// in how many they give per request, else requests.
    fn pace(&self) -> f64 {
        if self.items_per_s > 0.0 { self.items_per_s } else { self.ops_per_s }
    }

    fn median_of(rounds: &[Self]) -> Self {
        let mid = |get: fn(&Self) -> f64| median(rounds.iter().map(get)).unwrap_or_default();
        let some = |get: fn(&Self) -> Option<f64>| median(rounds.iter().filter_map(get));
        let top = |get: fn(&Self) -> Option<f64>| rounds.iter().filter_map(get).reduce(f64::max);
        Self {
            ops: mid(|f| f.ops),
            ops_per_s: mid(|f| f.ops_per_s),
            mib_per_s: mid(|f| f.mib_per_s),
            items_per_s: mid(|f| f.items_per_s),
            p50_us: mid(|f| f.p50_us),
            p90_us: mid(|f| f.p90_us),
            p99_us: mid(|f| f.p99_us),
            max_us: top(|f| Some(f.max_us)).unwrap_or_default(),
            server_cpu_us_per_op: some(|f| f.server_cpu_us_per_op),
            generator_cpu_us_per_op: some(|f| f.generator_cpu_us_per_op),
            rss_mib: top(|f| f.rss_mib),
        }
    }
}

impl Record {
    /// One line for the user who waits.
    pub(super) fn progress_line(&self, label: &str) -> String {
        let figures = Figures::of(&self.outcome);
        let failed = self.outcome.tally.failed();
        let errors = if failed > 0 { format!(", {failed} ERRORS") } else { String::new() };
        format!(
            "round {} {:9} {:>5} c{:<3} {label}: {}/s, {} MiB/s{errors}",
            self.round + 1,
            self.cell.workload,
            self.cell.size.to_string(),
            self.cell.concurrency,
            rate(figures.ops_per_s),
            rate(figures.mib_per_s),
        )
    }
}

impl Report {
    /// Groups records by what was measured and takes medians.
    pub(super) fn new(records: &[Record], around: Circumstances) -> Self {
        let mut order: Vec<Cell> = Vec::new();
        for record in records {
            if !order.contains(&record.cell) {
                order.push(record.cell);
            }
        }
        let labels: Vec<&str> = around.targets.iter().map(|t| t.0.as_str()).collect();
        let cells = order.into_iter().map(|cell| cell_report(records, cell, &labels)).collect();
        Self {
            errors: records.iter().map(|record| record.outcome.tally.failed()).sum(),
            cells,
            machine: around.machine,
            disk_before: around.disk_before,
            disk_after: around.disk_after,
            interrupted: around.interrupted,
            targets: around
                .targets
                .into_iter()
                .map(|(label, url, peak)| TargetInfo { label, url, peak_mib: peak.map(mib) })
                .collect(),
        }
    }

    /// Failed operations of all measurements.
    pub(super) fn errors(&self) -> u64 {
        self.errors
    }

    /// The report for programs.
    ///
    /// # Errors
    /// None in practice: every value has a JSON form.
    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// The report for people.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
        let mut previous: BTreeMap<(String, String), f64> = BTreeMap::new();
        for cell in &self.cells {
            for target in &cell.targets {
                let what = format!("{} c{}", cell.workload, cell.concurrency);
                let now = target.median.pace();
                let grows = cell.files.is_some() && cell.workload != "fill" && now > 0.0;
                let cost = grows.then(|| previous.insert((what, target.target.clone()), now));
                rows.push(row_of(cell, target, cost.flatten().map(|before| before / now)));
            }
            if let Some(ratio) = &cell.ratio {
                rows.push(ratio_row(ratio));
            }
        }
        let mut out = String::new();
        // Writing to a String cannot fail.
        writeln!(out, "\n{}", align(&rows)).unwrap_or_default();
        self.write_notes(&mut out).unwrap_or_default();
        out
    }

    fn write_notes(&self, out: &mut String) -> std::fmt::Result {
        for cell in &self.cells {
            for target in &cell.targets {
                let what = format!(
                    "{} {} c{} {}",
                    cell.workload,
                    Size(cell.size),
                    cell.concurrency,
                    target.target
                );
                for (kind, count) in &target.errors {
                    writeln!(out, "ERROR {what}: {kind}: {count}")?;
                }
                for sample in &target.samples {
                    writeln!(out, "      e.g. {sample}")?;
                }
                if target.reconnects > 0 {
                    writeln!(out, "note  {what}: {} reconnects", target.reconnects)?;
                }
            }
        }
        for target in &self.targets {
            let peak = target.peak_mib.map(|mib| format!(", peak memory {mib:.0} MiB"));
            writeln!(out, "{}: {}{}", target.label, target.url, peak.unwrap_or_default())?;
        }
        writeln!(out, "this machine: {}", self.machine)?;
        for (when, probe) in [("before", &self.disk_before), ("after", &self.disk_after)] {
            if let Some(probe) = probe {
                writeln!(out, "this machine's disk {when}: {}", probe_line(probe))?;
            }
        }
        if self.interrupted {
            writeln!(out, "INTERRUPTED: what was measured so far")?;
        }
        Ok(())
    }
}

fn cell_report(records: &[Record], cell: Cell, labels: &[&str]) -> CellReport {
    let mut targets = Vec::new();
    for (n, label) in labels.iter().enumerate() {
        let mine: Vec<&Record> =
            records.iter().filter(|r| r.cell == cell && r.target == n).collect();
        if mine.is_empty() {
            continue;
        }
        let rounds: Vec<Figures> = mine.iter().map(|r| Figures::of(&r.outcome)).collect();
        let mut sum = super::stats::Tally::default();
        for record in &mine {
            sum.merge(&record.outcome.tally);
        }
        targets.push(TargetReport {
            target: (*label).to_owned(),
            median: Figures::median_of(&rounds),
            rounds,
            errors: sum.errors,
            samples: sum.samples,
            reconnects: sum.reconnects,
        });
    }
    let ratio = match targets.as_slice() {
        [a, b] => ratio_of(a, b),
        _ => None,
    };
    CellReport {
        workload: cell.workload,
        size: cell.size.0,
        concurrency: cell.concurrency,
        files: cell.files,
        targets,
        ratio,
    }
}

/// `None` when a target had no success at all: nothing can be said then.
fn ratio_of(a: &TargetReport, b: &TargetReport) -> Option<Ratio> {
    let positive = |x: f64| (x > 0.0).then_some(x);
    let rate = positive(a.median.pace())? / positive(b.median.pace())?;
    let pairs = a.rounds.iter().zip(&b.rounds);
    let ratios: Vec<f64> =
        pairs.filter_map(|(a, b)| Some(positive(a.pace())? / positive(b.pace())?)).collect();
    let cpu = a.median.server_cpu_us_per_op.zip(b.median.server_cpu_us_per_op);
    Some(Ratio {
        rate,
        min: ratios.iter().copied().reduce(f64::min)?,
        max: ratios.iter().copied().reduce(f64::max)?,
        server_cpu: cpu.and_then(|(a, b)| Some(a / positive(b)?)),
    })
}

const HEADINGS: [&str; 16] = [
    "workload", "size", "conc", "files", "target", "ops/s", "MiB/s", "p50 ms", "p90 ms", "p99 ms",
    "max ms", "errors", "cpu us", "gen us", "rss MiB", "",
];

fn row_of(cell: &CellReport, target: &TargetReport, cost: Option<f64>) -> Vec<String> {
    let f = &target.median;
    let ms = |us: f64| format!("{:.3}", us / 1e3);
    let or_dash = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.0}"));
    let mut notes = Vec::new();
    if f.items_per_s > 0.0 {
        notes.push(format!("{} entries/s", rate(f.items_per_s)));
    }
    if let Some(cost) = cost {
        notes.push(format!("cost x{cost:.2}"));
    }
    vec![
        cell.workload.to_owned(),
        Size(cell.size).to_string(),
        cell.concurrency.to_string(),
        cell.files.map_or("-".to_owned(), |n| n.to_string()),
        target.target.clone(),
        rate(f.ops_per_s),
        rate(f.mib_per_s),
        ms(f.p50_us),
        ms(f.p90_us),
        ms(f.p99_us),
        ms(f.max_us),
        target.errors.values().sum::<u64>().to_string(),
        or_dash(f.server_cpu_us_per_op),
        or_dash(f.generator_cpu_us_per_op),
        or_dash(f.rss_mib),
        notes.join(", "),
    ]
}

fn ratio_row(ratio: &Ratio) -> Vec<String> {
    let cell = |heading: &str| match heading {
        "target" => "ratio".to_owned(),
        "ops/s" => format!("{:.2}x", ratio.rate),
        "cpu us" => ratio.server_cpu.map_or(String::new(), |cpu| format!("{cpu:.2}x")),
        "" => format!("rounds {:.2}-{:.2}x", ratio.min, ratio.max),
        _ => String::new(),
    };
    HEADINGS.into_iter().map(cell).collect()
}

fn probe_line(probe: &Probe) -> String {
    let sync = |rate: &super::disk_probe::SyncRate| {
        format!("{:.0}/s (p50 {:.0} us, p99 {:.0} us)", rate.per_s, rate.p50_us, rate.p99_us)
    };
    let direct = probe.direct_mib_s.map_or("no O_DIRECT".to_owned(), |r| format!("{r:.0} MiB/s"));
    format!(
        "4 KiB overwrite + fdatasync {}; 64 KiB {}; 1 MiB O_DIRECT writes {direct}; in {}",
        sync(&probe.sync_4k),
        sync(&probe.sync_64k),
        probe.dir.display()
    )
}

/// Three digits at most before thousands are set apart.
fn rate(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Columns of equal width, numbers to the right.
fn align(rows: &[Vec<String>]) -> String {
    let mut widths = [0; HEADINGS.len()];
    for row in rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.len());
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (n, text) in row.iter().enumerate() {
            let width = widths.get(n).copied().unwrap_or(0);
            let left = matches!(n, 0 | 4) || n + 1 == HEADINGS.len();
            let cell = if left { format!("{text:<width$}") } else { format!("{text:>width$}") };
            line.push_str(&cell);
            line.push_str("  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(target: usize, round: u32, ops: u32, failed: u64) -> Record {
        let mut outcome = Outcome {
            elapsed: Duration::from_secs(1),
            server_cpu_us: Some(u64::from(ops) * 20),
            ..Outcome::default()
        };
        for _ in 0..ops {
            outcome.tally.latency.record(Duration::from_micros(100));
        }
        for _ in 0..failed {
            outcome.tally.fail("status 503".into(), "GET x: 503".into());
        }
        let cell = Cell { workload: "get", size: Size(4096), concurrency: 16, files: None };
        Record { cell, target, round, outcome }
    }

    fn report(records: &[Record]) -> Report {
        let targets =
            ["A", "B"].map(|l| (l.to_owned(), "http://x/".to_owned(), Some(3 << 20))).to_vec();
        let around = Circumstances {
            machine: "2 x test".into(),
            disk_before: None,
            disk_after: None,
            interrupted: false,
            targets,
        };
        Report::new(records, around)
    }

    #[test]
    fn figures_are_medians_and_the_ratio_shows_its_span() {
        let records = [
            record(0, 0, 400, 0),
            record(1, 0, 100, 0),
            record(0, 1, 200, 0),
            record(1, 1, 200, 0),
            record(0, 2, 300, 0),
            record(1, 2, 150, 0),
        ];
        let report = report(&records);
        let cell = &report.cells[0];
        assert_eq!(cell.targets[0].median.ops_per_s, 300.0);
        assert_eq!(cell.targets[1].median.ops_per_s, 150.0);
        let ratio = cell.ratio.clone().unwrap();
        assert_eq!((ratio.rate, ratio.min, ratio.max), (2.0, 1.0, 4.0));
        assert!(report.table().contains("2.00x"), "{}", report.table());
        assert!(report.table().contains("peak memory 3 MiB"));
    }

    #[test]
    fn errors_are_summed_and_shown_with_a_sample() {
        let report = report(&[record(0, 0, 5, 2), record(0, 1, 5, 1)]);
        assert_eq!(report.errors(), 3);
        assert!(report.table().contains("ERROR get 4k c16 A: status 503: 3"));
        assert!(report.table().contains("GET x: 503"));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["cells"][0]["targets"][0]["errors"]["status 503"], 3);
        assert!(json["cells"][0]["targets"][0]["median"]["server_cpu_us_per_op"].is_f64());
    }

    #[test]
    fn rates_are_readable() {
        assert_eq!(
            [3.256, 99.94, 1234.4, 1_234_567.0].map(rate),
            ["3.26", "99.9", "1,234", "1,234,567"]
        );
    }
}
