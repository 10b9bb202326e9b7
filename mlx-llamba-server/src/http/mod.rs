//! HTTP: everything that happens to a request before an endpoint sees it, and connections.

pub(crate) mod body;
mod connections;
pub(crate) mod cors;
pub(crate) mod guard;
pub(crate) mod metrics;
mod paths;

pub(crate) use connections::serve;
