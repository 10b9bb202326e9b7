//! Counters, gauges and histograms of an engine.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper ends of the buckets for times, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];
/// Upper ends of the buckets for rows.
const ROWS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Counters, gauges and histograms of an engine. Clones share their values.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Tokens of prompts.
    pub prompt_tokens: Counter,
    /// Tokens of prompts that were in the cache or in a session.
    pub cached_tokens: Counter,
    /// Tokens generated.
    pub generated_tokens: Counter,
    /// Requests whose client went away.
    pub cancelled: Counter,
    /// Requests that missed their deadline.
    pub timed_out: Counter,
    /// Requests refused because the queue was full.
    pub refused: Counter,
    /// Continuations waiting.
    pub waiting: Gauge,
    /// Continuations running.
    pub rows: Gauge,
    /// Continuations that can run at once.
    pub slots: Gauge,
    /// Bytes of cached states in memory.
    pub cache_bytes: Gauge,
    /// Bytes of cached states on disk.
    pub cache_disk_bytes: Gauge,
    /// Sessions kept.
    pub sessions: Gauge,
    /// Rows of a decoding step.
    pub batch_rows: Histogram,
    /// Seconds of one forward pass.
    pub step_seconds: Histogram,
    /// Seconds from a request's arrival to its first token.
    pub first_token_seconds: Histogram,
    /// Seconds that a request waits in the queue.
    pub queue_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            cancelled: Counter::default(),
            timed_out: Counter::default(),
            refused: Counter::default(),
            waiting: Gauge::default(),
            rows: Gauge::default(),
            slots: Gauge::default(),
            cache_bytes: Gauge::default(),
            cache_disk_bytes: Gauge::default(),
            sessions: Gauge::default(),
            batch_rows: Histogram::new(ROWS),
            step_seconds: Histogram::new(SECONDS),
            first_token_seconds: Histogram::new(SECONDS),
            queue_seconds: Histogram::new(SECONDS),
        }
    }
}

impl Metrics {
    /// Registers all of them, under their names here.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("prompt_tokens", "Tokens of prompts", &self.prompt_tokens),
            ("cached_tokens", "Tokens of prompts found in the cache", &self.cached_tokens),
            ("generated_tokens", "Tokens generated", &self.generated_tokens),
            ("cancelled", "Requests whose client went away", &self.cancelled),
            ("timed_out", "Requests that missed their deadline", &self.timed_out),
            ("refused", "Requests refused because the queue was full", &self.refused),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("waiting", "Continuations waiting", &self.waiting),
            ("rows", "Continuations running", &self.rows),
            ("slots", "Continuations that can run at once", &self.slots),
            ("cache_bytes", "Bytes of cached states in memory", &self.cache_bytes),
            ("cache_disk_bytes", "Bytes of cached states on disk", &self.cache_disk_bytes),
            ("sessions", "Sessions kept", &self.sessions),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let histograms = [
            ("batch_rows", "Rows of a decoding step", &self.batch_rows),
            ("step_seconds", "Time of one forward pass", &self.step_seconds),
            ("first_token_seconds", "From arrival to the first token", &self.first_token_seconds),
            ("queue_seconds", "Time in the queue", &self.queue_seconds),
        ];
        for (name, help, histogram) in histograms {
            registry.register(name, help, histogram.clone());
        }
    }
}
