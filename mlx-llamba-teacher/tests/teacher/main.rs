//! The teacher against numbers made in PyTorch, and against itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod bad_files;
mod cache;
mod generate;
mod gguf;
mod golden;
mod gradients;
mod rope;
mod sentencepiece;
mod support;
