//! HTTP: everything that happens to a request before an endpoint sees it, and connections.

mod addresses;
pub(crate) mod body;
pub(crate) mod budget;
mod connections;
pub(crate) mod cors;
pub(crate) mod guard;
pub(crate) mod metrics;
mod paths;
mod socket;

pub(crate) use connections::serve;
