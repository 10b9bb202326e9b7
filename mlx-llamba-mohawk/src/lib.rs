//! MOHAWK: turns a Llama Transformer into a Llamba recurrent model.
//!
//! Source: MOHAWK (arXiv 2408.10189), Llamba (arXiv 2502.14458).

// The paper's matrices keep their upper-case names.
#![allow(non_snake_case)]

mod architecture;
mod batch;
pub mod data;
mod error;
pub mod evaluate;
mod objective;
pub mod plot;
pub mod recipe;
pub mod run;
pub mod stages;
pub mod student;
pub mod synthesize;
pub mod train;

pub use architecture::Architecture;
pub use batch::Batch;
pub use error::{Error, Result};
pub use mlx_llamba_teacher::Parameters;
pub use objective::Objective;
