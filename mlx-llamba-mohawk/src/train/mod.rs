//! Trains the parameters of an [`Objective`](crate::Objective) in steps that can be stopped and
//! resumed with bit-identical results.

mod adamw;
mod checkpoint;
mod curves;
mod gradient;
mod log;
mod muon;
mod options;
mod rehearsal;
mod schedule;
mod session;
mod step;
mod update;
mod watch;

pub(crate) use crate::error::io;
pub use adamw::AdamW;
pub(crate) use checkpoint::differences;
pub use checkpoint::{Checkpoints, Identity, Moments, Progress, State};
pub use curves::plot;
pub use gradient::{clip_factor, global_norm, value_and_gradient};
pub use log::{Log, Record};
pub use options::StageOptions;
pub(crate) use options::is_default;
pub use rehearsal::StageCost;
pub use schedule::Schedule;
pub use session::{Ending, Event, OnEvent, Session, SessionOptions, Stage};
pub use step::{Begun, Step, Trainer};
pub use watch::Watch;
