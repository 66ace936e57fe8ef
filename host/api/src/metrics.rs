//! `/metrics`: counts of requests and of what the catalog holds, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::state::AppState;

/// Upper bounds of the latency buckets, in milliseconds.
const BUCKETS_MS: [u64; 8] = [5, 25, 100, 250, 1_000, 5_000, 30_000, 120_000];

#[derive(Debug, Default, Clone)]
struct Latency {
    buckets: [u64; BUCKETS_MS.len()],
    count: u64,
    sum: Duration,
}

#[derive(Debug, Default)]
struct Counts {
    /// By method, route pattern and status: bounded, as unknown paths share one pattern.
    requests: BTreeMap<(String, String, u16), u64>,
    latency: BTreeMap<String, Latency>,
}

/// Counts of the requests since the start.
#[derive(Debug)]
pub(crate) struct HttpMetrics {
    started: Instant,
    counts: Mutex<Counts>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self { started: Instant::now(), counts: Mutex::default() }
    }
}

impl HttpMetrics {
    fn record(&self, method: &str, route: &str, status: u16, took: Duration) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (method.to_owned(), route.to_owned(), status);
        *counts.requests.entry(key).or_default() += 1;
        let latency = counts.latency.entry(route.to_owned()).or_default();
        latency.count += 1;
        latency.sum += took;
        for (bound, bucket) in BUCKETS_MS.iter().zip(&mut latency.buckets) {
            if took <= Duration::from_millis(*bound) {
                *bucket += 1;
            }
        }
    }

    /// How long the server has been up.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The counts as text.
    pub(crate) fn render(&self, out: &mut Exposition) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        out.family("tidemark_http_requests_total", "counter", "Requests answered.");
        for ((method, route, status), count) in &counts.requests {
            let status = status.to_string();
            let labels = [("method", method.as_str()), ("route", route), ("status", &status)];
            out.sample("tidemark_http_requests_total", &labels, count);
        }
        let name = "tidemark_http_request_duration_seconds";
        out.family(name, "histogram", "Time until the answer's head was ready.");
        for (route, latency) in &counts.latency {
            for (bound, count) in BUCKETS_MS.iter().zip(&latency.buckets) {
                let bound = Duration::from_millis(*bound).as_secs_f64().to_string();
                out.sample(&format!("{name}_bucket"), &[("route", route), ("le", &bound)], count);
            }
            out.sample(&format!("{name}_bucket"), &[("route", route), ("le", "+Inf")], latency.count);
            out.sample(&format!("{name}_sum"), &[("route", route)], latency.sum.as_secs_f64());
            out.sample(&format!("{name}_count"), &[("route", route)], latency.count);
        }
    }
}

/// Text in Prometheus' exposition format 0.0.4.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

impl Exposition {
    /// Begins a family of samples.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds one sample.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let braces = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{braces} {value}");
    }

    /// The whole text.
    pub(crate) fn finish(self) -> String {
        self.0
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Counts every request with the route it matched.
pub(crate) async fn count(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let metrics = Arc::clone(&state.http);
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    // Clients may invent methods; each would be a series of its own.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let began = Instant::now();
    let response = next.run(request).await;
    let took = began.elapsed();
    let status = response.status().as_u16();
    tracing::debug!(method, route, status, took_ms = took.as_millis(), "answered");
    metrics.record(&method, &route, status, took);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_cumulative_and_escaped() {
        let metrics = HttpMetrics::default();
        metrics.record("GET", "/a\"b", 200, Duration::from_millis(20));
        metrics.record("GET", "/a\"b", 200, Duration::from_millis(60_000));
        let mut out = Exposition::default();
        metrics.render(&mut out);
        let text = out.finish();
        assert!(
            text.contains(r#"tidemark_http_requests_total{method="GET",route="/a\"b",status="200"} 2"#),
            "{text}"
        );
        assert!(text.contains(r#"_bucket{route="/a\"b",le="0.025"} 1"#), "{text}");
        assert!(text.contains(r#"_bucket{route="/a\"b",le="120"} 2"#), "{text}");
        assert!(text.contains(r#"_bucket{route="/a\"b",le="0.005"} 0"#), "{text}");
    }
}
