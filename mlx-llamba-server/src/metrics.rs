//! Counts and times, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the buckets for times, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];
/// Upper ends of the buckets for rows.
const ROWS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// A number that goes up and down, or only up.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: usize) {
        self.0.store(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn up(&self) {
        self.add(1);
    }

    pub(crate) fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often a value was in each bucket.
#[derive(Debug)]
pub(crate) struct Histogram {
    ends: &'static [f64],
    counts: Vec<AtomicU64>,
    /// In millionths.
    sum: AtomicU64,
}

impl Histogram {
    fn new(ends: &'static [f64]) -> Self {
        let counts = (0..=ends.len()).map(|_| AtomicU64::new(0)).collect();
        Self { ends, counts, sum: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, value: f64) {
        let bucket = self.ends.iter().position(|&end| value <= end).unwrap_or(self.ends.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    pub(crate) fn time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    fn render(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut total = 0;
        let ends = self.ends.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (count, end) in self.counts.iter().zip(ends) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{end}\"}} {total}");
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum {sum}\n{name}_count {total}");
    }
}

/// All that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    pub(crate) prompt_tokens: Number,
    pub(crate) cached_tokens: Number,
    pub(crate) generated_tokens: Number,
    pub(crate) cancelled: Number,
    pub(crate) timed_out: Number,
    pub(crate) refused: Number,
    pub(crate) waiting: Number,
    pub(crate) rows: Number,
    pub(crate) slots: Number,
    pub(crate) cache_bytes: Number,
    pub(crate) cache_disk_bytes: Number,
    pub(crate) sessions: Number,
    pub(crate) connections: Number,
    /// Rows that a decoding step served.
    pub(crate) batch: Histogram,
    /// Of one forward.
    pub(crate) step: Histogram,
    /// From a request's arrival to its first token.
    pub(crate) first_token: Histogram,
    /// From a request's arrival to its turn.
    pub(crate) queued: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            prompt_tokens: Number::default(),
            cached_tokens: Number::default(),
            generated_tokens: Number::default(),
            cancelled: Number::default(),
            timed_out: Number::default(),
            refused: Number::default(),
            waiting: Number::default(),
            rows: Number::default(),
            slots: Number::default(),
            cache_bytes: Number::default(),
            cache_disk_bytes: Number::default(),
            sessions: Number::default(),
            connections: Number::default(),
            batch: Histogram::new(&ROWS),
            step: Histogram::new(&SECONDS),
            first_token: Histogram::new(&SECONDS),
            queued: Histogram::new(&SECONDS),
        }
    }
}

impl Metrics {
    /// Counts an answer; `route` is one of the server's own, never what a client wrote.
    pub(crate) fn request(&self, route: &str, status: u16) {
        if let Ok(mut requests) = self.requests.lock() {
            *requests.entry((route.to_owned(), status)).or_default() += 1;
        }
    }

    /// Everything as text.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        let name = "mlx_llamba_requests_total";
        let _ = writeln!(out, "# HELP {name} Answers by route and status.\n# TYPE {name} counter");
        if let Ok(requests) = self.requests.lock() {
            for ((route, status), count) in requests.iter() {
                let _ = writeln!(out, "{name}{{route=\"{route}\",status=\"{status}\"}} {count}");
            }
        }
        let counters = [
            ("prompt_tokens", "Tokens of prompts.", &self.prompt_tokens),
            ("cached_tokens", "Tokens of prompts that were not read again.", &self.cached_tokens),
            ("generated_tokens", "Tokens generated.", &self.generated_tokens),
            ("cancelled", "Requests whose client went away.", &self.cancelled),
            ("timed_out", "Requests that took too long.", &self.timed_out),
            ("refused", "Requests refused because too many were waiting.", &self.refused),
        ];
        for (name, help, number) in counters {
            let name = format!("mlx_llamba_{name}_total");
            let value = number.get();
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
        let gauges = [
            ("waiting", "Continuations that wait for their turn.", &self.waiting),
            ("rows", "Continuations that are computed.", &self.rows),
            ("slots", "Continuations that can be computed at once.", &self.slots),
            ("cache_bytes", "Bytes of states kept for later requests.", &self.cache_bytes),
            ("cache_disk_bytes", "Bytes of such states on the disk.", &self.cache_disk_bytes),
            ("sessions", "Sessions kept.", &self.sessions),
            ("connections", "Open connections.", &self.connections),
        ];
        for (name, help, number) in gauges {
            let name = format!("mlx_llamba_{name}");
            let value = number.get();
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        let histograms = [
            ("batch_rows", "Rows that a decoding step served.", &self.batch),
            ("step_seconds", "Time of one forward.", &self.step),
            ("first_token_seconds", "From arrival to the first token.", &self.first_token),
            ("queue_seconds", "From arrival to the turn.", &self.queued),
        ];
        for (name, help, histogram) in histograms {
            histogram.render(&mut out, &format!("mlx_llamba_{name}"), help);
        }
        out
    }
}
