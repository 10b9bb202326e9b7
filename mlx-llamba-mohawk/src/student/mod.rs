//! The student: its sizes, its initial parameters, and its files.
//!
//! Sources: MOHAWK (arXiv 2408.10189), section 4; Llamba (arXiv 2502.14458), section 3.

mod attention;
mod calibrate;
mod decay;
mod init;
mod parameters;
mod shape;
mod store;

pub use calibrate::{Fit, calibrate};
pub use decay::set_half_lives;
pub use init::{Init, init};
pub use shape::{Shape, config};
pub use store::{load, save};
