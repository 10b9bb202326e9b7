//! Text that a teacher writes: data for a student without any other data.
//!
//! Source: data-free distillation as in LLM-QAT (arXiv 2305.17888), with texts drawn from the
//! teacher's own distribution.

mod file;
mod prompt;
mod write;

pub use file::{Job, Made, synthesize};
pub use prompt::{Prompt, prompts};
pub use write::{Options, Writer, Written};
