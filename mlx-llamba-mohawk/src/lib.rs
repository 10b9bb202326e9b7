//! MOHAWK: turns a Llama Transformer into a Llamba recurrent model.
//!
//! Source: MOHAWK (arXiv 2408.10189), Llamba (arXiv 2502.14458).

// The paper's matrices keep their upper-case names.
#![allow(non_snake_case)]

mod batch;
pub mod data;
pub mod distill;
mod error;
pub mod evaluate;
mod objective;
pub mod plot;
pub mod recipe;
mod run;
pub mod scratch;
pub mod stages;
pub mod student;
pub mod synthesize;
pub mod train;

pub use batch::Batch;
pub use error::{Error, Result};
pub use mlx_llamba_teacher::Parameters;
pub use objective::Objective;
pub use run::{Note, Outcome};
