//! Students and the stages of MOHAWK.

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

mod calibrate;
mod compared;
mod finite;
mod golden;
mod heads;
mod memory;
mod precision;
mod student;
mod support;
