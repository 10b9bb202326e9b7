//! End-to-end tests: fixtures, the command, a fake hub.

pub mod chat;
pub mod command;
pub mod fake_hub;
pub mod fixtures;
pub mod graph;
pub mod tiny;

use mlx_llamba::kernels::Backend;

/// Back ends that compute a model on this machine's CPU.
pub const BACKENDS: [Backend; 2] = [Backend::PLAIN, Backend::CPU];
