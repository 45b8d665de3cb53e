//! `/metrics`: counts of the doors and their connections as OpenMetrics text, beside core's.
//!
//! Not here: counting ([`larder_http::Requests`]), what core counts
//! ([`larder_core::Larder::metrics`]).

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use larder_http::{Limits, Status};

/// Name and meaning.
type Metric = (&'static str, &'static str);

const BUILD: Metric = ("larder_build_info", "1, with the `version` as a label.");
const CONNECTIONS: Metric = ("larder_http_connections", "Connections that are open.");
const ACCEPTED: Metric = ("larder_http_accepted_total", "Connections taken.");
const REFUSED: Metric =
    ("larder_http_refused_total", "Connections turned away because there were too many.");
const PANICS: Metric =
    ("larder_http_panics_total", "Requests whose handler panicked: each one is a defect.");
const LIMITED: Metric = (
    "larder_http_limited_total",
    "Requests and connections refused by a limit of an address, user or key, by `limit`.",
);
const CUT: Metric = (
    "larder_http_cut_total",
    "Connections cut off because the client was too slow, by what it was slow `with`.",
);
const REQUESTS: Metric =
    ("larder_http_requests_total", "Requests by `door`, `route` and class of `status`.");
const SECONDS: Metric =
    ("larder_http_request_seconds", "Time up to the head of the answer, by `door` and `route`.");

/// Every metric of the doors.
pub(crate) const METRICS: &[Metric] =
    &[BUILD, CONNECTIONS, ACCEPTED, REFUSED, PANICS, LIMITED, CUT, REQUESTS, SECONDS];

/// Metrics of parts that the door does not know, as OpenMetrics text without its end.
#[derive(Clone, Default)]
pub struct MoreMetrics(Option<Arc<dyn Fn() -> String + Send + Sync>>);

impl MoreMetrics {
    /// What `render` says at each request; it must not block.
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(render)))
    }

    pub(crate) fn render(&self) -> String {
        self.0.as_ref().map_or_else(String::new, |render| render())
    }
}

impl fmt::Debug for MoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MoreMetrics({})", self.0.is_some())
    }
}

/// The whole page: `core` is core's part.
pub(crate) fn page(core: &str, server: &Status, limits: &Limits, version: &str) -> String {
    let mut page = String::with_capacity(16 << 10);
    page.push_str(core);
    if !page.is_empty() && !page.ends_with('\n') {
        page.push('\n');
    }
    if write(&mut page, server, limits, version).is_err() {
        tracing::error!("write metrics into a string");
    }
    page.push_str("# EOF\n");
    page
}

fn write(page: &mut String, server: &Status, limits: &Limits, version: &str) -> fmt::Result {
    begin(page, BUILD, "info")?;
    writeln!(page, "larder_build_info{{version=\"{version}\"}} 1")?;
    begin(page, CONNECTIONS, "gauge")?;
    writeln!(page, "{} {}", CONNECTIONS.0, server.open())?;
    for (metric, value) in
        [(ACCEPTED, server.accepted()), (REFUSED, server.refused()), (PANICS, server.panicked())]
    {
        begin(page, metric, "counter")?;
        writeln!(page, "{} {value}", metric.0)?;
    }
    begin(page, LIMITED, "counter")?;
    for (limit, value) in limits.refused() {
        writeln!(page, "{}{{limit=\"{limit}\"}} {value}", LIMITED.0)?;
    }
    begin(page, CUT, "counter")?;
    for (with, value) in server.cut() {
        writeln!(page, "{}{{with=\"{with}\"}} {value}", CUT.0)?;
    }
    begin(page, REQUESTS, "counter")?;
    let doors = server.doors();
    for door in &doors {
        door.write_counts(page, REQUESTS.0)?;
    }
    begin(page, SECONDS, "histogram")?;
    for door in &doors {
        door.write_times(page, SECONDS.0)?;
    }
    Ok(())
}

/// The lines before the values of a metric.
fn begin(page: &mut String, (name, help): Metric, kind: &str) -> fmt::Result {
    let family = name.trim_end_matches("_total").trim_end_matches("_info");
    writeln!(page, "# HELP {family} {help}\n# TYPE {family} {kind}")?;
    if family.ends_with("_seconds") {
        writeln!(page, "# UNIT {family} seconds")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;

    #[test]
    fn the_page_has_what_was_counted_and_ends_once() {
        let (status, limits) = (Status::default(), Limits::none(&larder_base::Env::system()));
        let rest = status.door("rest", ["file", "none"].into_iter());
        rest.count(0, StatusCode::OK, Duration::from_micros(300));
        rest.count(0, StatusCode::OK, Duration::from_secs(60));
        rest.count(0, StatusCode::NOT_FOUND, Duration::from_micros(80));
        status.door("s3", ["none"].into_iter()).count(9, StatusCode::OK, Duration::ZERO);
        let page = page("# TYPE larder_x gauge\nlarder_x 1", &status, &limits, "1.2.3");
        for line in [
            "larder_x 1",
            "larder_build_info{version=\"1.2.3\"} 1",
            "larder_http_limited_total{limit=\"address_list\"} 0",
            "larder_http_cut_total{with=\"head\"} 0",
            "larder_http_requests_total{door=\"rest\",route=\"file\",status=\"2xx\"} 2",
            "larder_http_requests_total{door=\"rest\",route=\"file\",status=\"4xx\"} 1",
            "larder_http_requests_total{door=\"s3\",route=\"none\",status=\"2xx\"} 1",
            "larder_http_request_seconds_bucket{door=\"rest\",route=\"file\",le=\"0.0001\"} 1",
            "larder_http_request_seconds_bucket{door=\"rest\",route=\"file\",le=\"0.0005\"} 2",
            "larder_http_request_seconds_bucket{door=\"rest\",route=\"file\",le=\"30.0\"} 2",
            "larder_http_request_seconds_bucket{door=\"rest\",route=\"file\",le=\"+Inf\"} 3",
            "larder_http_request_seconds_sum{door=\"rest\",route=\"file\"} 60.000380",
            "larder_http_request_seconds_count{door=\"rest\",route=\"file\"} 3",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert!(page.ends_with("\n# EOF\n"));
        assert_eq!(page.matches("# EOF").count(), 1);
        assert_eq!(page.matches("# TYPE larder_http_requests ").count(), 1);
    }
}
