//! Requests: their fields, and how a body becomes one.

pub(crate) mod body;
mod check;
pub(crate) mod common;
mod compatible;
pub(crate) mod cost;
pub(crate) mod messages;
pub(crate) mod prompt;
pub(crate) mod raw;
pub(crate) mod schemas;
mod sound;
pub(crate) mod structured;
pub(crate) mod tools;
