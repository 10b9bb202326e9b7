//! Parsers of files, templates and requests on damaged inputs: each gives a value or an error, in bounded
//! time and memory, and never panics, hangs or ends the process.
//!
//! `scripts/fuzz MINUTES` goes on for longer than a test does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checkpoints;
mod files;
mod harness;
mod requests;
mod texts;
