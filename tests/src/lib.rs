//! End-to-end tests: fixtures, the command, a fake hub.

pub mod command;
pub mod fake_hub;
pub mod fixtures;
pub mod tiny;
