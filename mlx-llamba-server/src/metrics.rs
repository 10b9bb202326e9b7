//! The engine's counters and the server's own.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of the server, and the registry of all counters.
pub(crate) struct Metrics {
    registry: Registry,
    /// Answers by route and status.
    requests: Family<[(&'static str, String); 2], Counter>,
    /// Open connections.
    pub(crate) connections: Gauge,
    /// Bytes that are counted for requests.
    pub(crate) request_memory: Gauge,
}

impl Metrics {
    /// Registers the engine's counters beside the server's.
    pub(crate) fn new(engine: &mlx_llamba_engine::Metrics) -> Self {
        let mut registry = Registry::with_prefix("mlx_llamba");
        let (requests, connections) = (Family::default(), Gauge::default());
        let request_memory = Gauge::default();
        registry.register("requests", "Answers by route and status", Family::clone(&requests));
        registry.register("connections", "Open connections", Gauge::clone(&connections));
        let bytes = "Bytes of request bodies, their JSON, prompts and tokens, as estimated";
        registry.register("request_memory_bytes", bytes, Gauge::clone(&request_memory));
        engine.register(&mut registry);
        Self { registry, requests, connections, request_memory }
    }

    /// Counts an answer; `route` is a path template of the server's, not a path that a client sent.
    pub(crate) fn request(&self, route: &str, status: u16) {
        let labels = [("route", route.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
    }

    /// Writes all counters in the OpenMetrics text format.
    ///
    /// # Errors
    /// None in practice: a string takes any text.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
