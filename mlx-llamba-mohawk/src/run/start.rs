//! The parameters before the first step.

use mlx_llamba::Config;
use mlx_llamba_teacher::{self as teacher, Llama, Wanted};
use mlx_rs::transforms::eval;

use super::Run;
use super::job::Task;
use crate::architecture::Architecture;
use crate::data::Position;
use crate::recipe::MixerInit;
use crate::student::{self, Init, set_half_lives};
use crate::{Error, Parameters, Result};

/// The number of tokens that the calibration reads, rounded up to whole windows.
const CALIBRATION: usize = 8192;

impl Run<'_> {
    /// Returns the parameters before the first step.
    pub(super) fn start(&self) -> Result<Parameters> {
        let recipe = &self.job.recipe;
        let first = match &self.job.task {
            Task::Distill { student, .. } => student.as_ref(),
            Task::Train { .. } => None,
        };
        let llama = || match &self.teacher {
            Some(teacher) => teacher.parameters(),
            None => teacher::init(&self.llama, recipe.seed),
        };
        let parameters = match (&self.architecture, first) {
            (Architecture::Llama(_), _) => llama()?,
            (Architecture::Llamba(wanted), Some(path)) => {
                let (config, parameters) = student::load(path)?;
                if config.tensors() != wanted.tensors() {
                    return Err(Error::OtherStudent { path: path.clone() });
                }
                parameters
            }
            (Architecture::Llamba(config), None) => {
                // Without a teacher there is nothing to fit.
                let beginning = match (recipe.student.mixer_init(), &self.teacher) {
                    (MixerInit::Calibrated, None) => MixerInit::Random,
                    (beginning, _) => beginning,
                };
                let options = Init {
                    copy_attention: beginning != MixerInit::Random,
                    scale: match beginning {
                        MixerInit::Calibrated => Some(1.0),
                        _ => Some(recipe.student.copy_scale).filter(|&scale| scale > 0.0),
                    },
                    skip: recipe.student.skip,
                    seed: recipe.seed,
                };
                let mut parameters = student::init(&self.llama, &llama()?, config, &options)?;
                if let Some(teacher) = &self.teacher {
                    match beginning {
                        MixerInit::Calibrated => {
                            self.calibrate(teacher, config, &mut parameters)?
                        }
                        _ => self.set_half_lives(teacher, config, &mut parameters)?,
                    }
                }
                parameters
            }
        };
        eval(parameters.values())?;
        Ok(parameters)
    }

    /// Fits the mixers to the teacher on some of the longest windows.
    fn calibrate(
        &self,
        teacher: &Llama,
        config: &Config,
        parameters: &mut Parameters,
    ) -> Result<()> {
        let Some(windows) = self.windows.iter().max_by_key(|windows| windows.length()) else {
            return Ok(());
        };
        // A small text is not read twice.
        let tokens = CALIBRATION.min(windows.tokens() as usize);
        let (batch, _) = windows.batch(Position::default(), tokens.div_ceil(windows.length()))?;
        student::calibrate(teacher, config, parameters, &batch).map(drop)
    }

    fn set_half_lives(
        &self,
        teacher: &Llama,
        config: &Config,
        parameters: &mut Parameters,
    ) -> Result<()> {
        let half_lives = &self.job.recipe.student.half_lives;
        let Some(windows) = self.windows.first().filter(|_| !half_lives.is_empty()) else {
            return Ok(());
        };
        let (batch, _) = windows.batch(Position::default(), 4)?;
        let wanted = Wanted { hidden: true, ..Wanted::default() };
        let trace = teacher.trace(&batch.tokens, batch.starts.as_ref(), wanted)?;
        set_half_lives(config, parameters, &trace.hidden, half_lives)
    }
}
