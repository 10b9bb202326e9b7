//! A training run from beginning to end: text and a recipe in, a model out.
//!
//! A run distills a student from a teacher in the stages of MOHAWK, or trains a model from random
//! parameters in a stage of its own; text, checkpoints, evaluation and output are the same.

mod cost;
mod identity;
mod job;
mod output;
mod start;
mod subject;
mod texts;

use std::ops::ControlFlow;
use std::path::Path;

use mlx_llamba::evaluate::{Pair, Single};
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba_teacher::{Llama, LlamaConfig, Window};

pub use cost::Cost;
pub(crate) use identity::{fingerprint, identify};
pub use job::{Job, Kind, Note, OnNote, Outcome, Task};

use crate::architecture::{Architecture, Built};
use crate::data::{Companions, Encoder, Windows};
use crate::error::io;
use crate::evaluate::{Metrics, evaluate};
use crate::recipe::{EvaluationOptions, Precision, StageName};
use crate::stages::{Alignment, Distillation, NextToken, Orientation};
use crate::train::{
    Ending, Event, Identity, OnEvent, Session, SessionOptions, Stage, StageCost, StageOptions,
    State, Trainer,
};
use crate::{Error, Objective, Parameters, Result};
use subject::Subject;
use texts::Texts;

/// The untrained baseline that a student has to beat (StreamingLLM, arXiv 2309.17453).
const BASELINE: Window = Window { size: 64, sinks: 4 };

/// Runs a job, or the rest of it.
///
/// # Errors
/// Errors of models, tokenizer, recipe and text, and [`Error::DoesNotFit`], before the first step;
/// later those of [`Session::stage`].
pub fn run(job: &Job, tell: OnNote<'_>) -> Result<Outcome> {
    let Job { output, recipe, .. } = job;
    if !job.overwrite {
        output::expect_no_model(output, job.resume)?;
        Session::expect(output, job.resume)?;
    }
    let backend = Backend::select(Dtype::Float32).map_err(mlx_llamba::Error::from)?;
    let Subject { llama, teacher, architecture, companions, identity } = Subject::open(job)?;
    let encoder = {
        let (begin, end) = (recipe.data.begin.as_deref(), recipe.data.end.as_deref());
        let hash = companions.hash.clone();
        Encoder::new(&companions.tokenizer, hash, llama.vocab_size, begin, end)?
            .learned(recipe.data.learned)
    };
    std::fs::create_dir_all(output).map_err(io("create", output))?;
    let cache = job.cache.as_ref().unwrap_or(output);
    let context = if teacher.is_some() { llama.max_position_embeddings } else { usize::MAX };
    let evaluation = EvaluationOptions {
        length: recipe.evaluation.length.min(context),
        ..recipe.evaluation.clone()
    };
    let texts = Texts::open(&job.data, &recipe.data, &evaluation, &encoder, cache, tell)?;
    // A stage reads the same text in the same order whether or not other stages came before.
    let windows = recipe
        .stages()
        .map(|(name, options)| texts.windows(options.length, &[recipe.seed, name as u64]))
        .collect::<Result<_>>()?;
    let run = Run { job, llama, teacher, architecture, companions, backend, texts, windows };
    run.train(run.identity(identity), tell)
}

/// The constants of a run.
struct Run<'a> {
    job: &'a Job,
    llama: LlamaConfig,
    teacher: Option<Llama>,
    architecture: Architecture,
    companions: Companions,
    backend: Backend,
    texts: Texts,
    /// The windows of each stage.
    windows: Vec<Windows>,
}

/// A use of a stage.
enum Work<'a> {
    /// Measures what a window costs and changes nothing.
    Rehearse(&'a State, &'a mut StageCost),
    Train(&'a mut Session, OnEvent<'a>),
}

impl Run<'_> {
    /// Returns the values that determine the weights of the model.
    fn identity(&self, mut identity: Identity) -> Identity {
        let recipe = &self.job.recipe;
        identity.insert("data".into(), self.texts.hash().into());
        identify(&mut identity, "seed", &recipe.seed);
        // Runs of before there was a choice have no such entry.
        if recipe.compute != Precision::default() {
            identify(&mut identity, "compute", &recipe.compute);
        }
        identify(&mut identity, "student", &recipe.student);
        identify(&mut identity, "data", &recipe.data);
        for (stage, options) in recipe.stages() {
            identify(&mut identity, stage.name(), options);
        }
        identity
    }

    /// Trains all stages and publishes the model.
    fn train(&self, identity: Identity, tell: OnNote<'_>) -> Result<Outcome> {
        let Job { output, recipe, resume, .. } = self.job;
        self.expect_fit(cost::least_bytes(recipe, &self.architecture, self.teacher.as_ref()))?;
        let options = SessionOptions {
            evaluate_every: recipe.evaluation.every,
            checkpoint_every: recipe.checkpoint.every,
            keep: recipe.checkpoint.keep,
        };
        let stop;
        let mut session = if *resume {
            let nothing = || Err(Error::NothingToResume { path: output.clone() });
            let session = Session::open(output, identity, options, true, nothing)?;
            stop = self.announce(session.state(), tell)?;
            session
        } else {
            // A run that does not fit is refused before there is anything to resume.
            let state = State::new(self.start()?);
            stop = self.announce(&state, tell)?;
            if self.job.overwrite {
                output::remove_model(output)?;
                Session::remove(output)?;
            }
            Session::open(output, identity, options, false, || Ok(state.parameters))?
        };
        let stop = match self.baseline()? {
            Some(metrics) if stop.is_continue() => tell(Note::Baseline(&metrics)),
            _ => stop,
        };
        let mut metrics = None;
        let mut ending = if stop.is_break() { Ending::Stopped } else { Ending::Done };
        for index in 0..self.windows.len() {
            if ending == Ending::Stopped {
                break;
            }
            let mut at = |event: Event<'_>| {
                if let Event::Evaluation { metrics: found, .. } = &event {
                    metrics = Some(**found);
                }
                tell(Note::Train(event))
            };
            ending = self.stage(index, Work::Train(&mut session, &mut at))?;
        }
        if ending == Ending::Done {
            let parameters = &session.state().parameters;
            let save = |path: &Path| self.architecture.save(parameters, &self.companions, path);
            output::publish(output, save)?;
        }
        Ok(Outcome { ending, metrics })
    }

    /// Tells what will be trained and its cost; refuses a run that does not fit.
    fn announce(&self, state: &State, tell: OnNote<'_>) -> Result<ControlFlow<()>> {
        let steps: u64 = self.job.recipe.stages().map(|(_, options)| options.steps()).sum();
        let learned = self.windows.first().map_or(0, Windows::tokens);
        let begins = Note::Begins {
            model: self.architecture.describe(),
            tokens: (learned, self.texts.held_out_tokens()),
            steps: (state.progress.total_steps, steps),
        };
        if tell(begins).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let cost = self.cost(state)?;
        self.expect_fit(cost.bytes())?;
        Ok(tell(Note::Cost(&cost)))
    }

    /// Estimates the cost of the rest of the run by the gradients of one window of each stage.
    fn cost(&self, state: &State) -> Result<Cost> {
        let mut stages = Vec::new();
        for (index, (name, options)) in self.job.recipe.stages().enumerate() {
            let done = match index.cmp(&state.progress.stage) {
                std::cmp::Ordering::Less => continue,
                std::cmp::Ordering::Equal => state.progress.step,
                std::cmp::Ordering::Greater => 0,
            };
            let mut cost = StageCost::default();
            self.stage(index, Work::Rehearse(state, &mut cost))?;
            cost.seconds *= options.steps().saturating_sub(done) as f64;
            stages.push((name, cost));
        }
        Ok(Cost { stages })
    }

    fn expect_fit(&self, needed: u64) -> Result<()> {
        match self.job.memory {
            Some(available) if needed > available => Err(Error::DoesNotFit { needed, available }),
            _ => Ok(()),
        }
    }

    /// Measures or trains stage `index` of the recipe.
    fn stage(&self, index: usize, work: Work<'_>) -> Result<Ending> {
        let Some((name, options)) = self.job.recipe.stages().nth(index) else {
            return Ok(Ending::Done);
        };
        let (place, products) = ((name, index), self.job.recipe.compute.dtype());
        match (name, self.teacher.clone(), &self.architecture) {
            (StageName::Orientation, Some(teacher), Architecture::Llamba(student)) => {
                let objective = Orientation::new(teacher, student.clone())?.norms(options.norms);
                let objective = objective.compared(options.compared).products(products);
                self.put(work, place, &objective, options)
            }
            (StageName::Alignment, Some(teacher), Architecture::Llamba(student)) => {
                let objective = Alignment::new(teacher, student.clone());
                let objective = objective.norms(options.norms).mlp(options.mlp).products(products);
                self.put(work, place, &objective, options)
            }
            (StageName::Distillation, Some(teacher), Architecture::Llamba(student)) => {
                let objective = Distillation::new(teacher, student.clone())
                    .next_weight(options.next_token as f32)
                    .temperature(options.temperature as f32)
                    .recompute(options.recompute)
                    .products(products);
                self.put(work, place, &objective, options)
            }
            _ => {
                let objective = NextToken::new(self.architecture.clone()).products(products);
                self.put(work, place, &objective, options)
            }
        }
    }

    fn put<O: Objective>(
        &self,
        work: Work<'_>,
        (name, index): (StageName, usize),
        objective: &O,
        options: &StageOptions,
    ) -> Result<Ending> {
        let (name, windows) = (name.name(), &self.windows[index]);
        match work {
            Work::Rehearse(state, cost) => {
                let trainer = Trainer::new(name, objective, windows, options, &state.parameters)?;
                *cost = trainer.rehearse(state)?;
                Ok(Ending::Done)
            }
            Work::Train(session, at) => {
                let stage = Stage { name, index, objective, options, windows };
                session.stage(&stage, &mut |parameters| self.measure(parameters), at)
            }
        }
    }

    /// Evaluates the teacher with a short window on held-out text, if both are there.
    fn baseline(&self) -> Result<Option<Metrics>> {
        let Some(teacher) = self.teacher.as_ref().filter(|_| !self.texts.held_out.is_empty())
        else {
            return Ok(None);
        };
        let windowed = teacher.clone().with_window(Some(BASELINE));
        evaluate(&self.texts.held_out, Pair::new(teacher, &windowed)?).map(Some)
    }

    /// Evaluates the model on held-out text, and the teacher beside it if there is one.
    fn measure(&self, parameters: &Parameters) -> Result<Option<Metrics>> {
        if self.texts.held_out.is_empty() {
            return Ok(None);
        }
        let held_out = &self.texts.held_out;
        let metrics = match (self.architecture.build(parameters, self.backend)?, &self.teacher) {
            (Built::Llamba(student), Some(teacher)) => {
                evaluate(held_out, Pair::new(teacher, &student)?)
            }
            (Built::Llamba(model), None) => evaluate(held_out, Single::new(&model)?),
            (Built::Llama(model), _) => evaluate(held_out, Single::new(&model)?),
        };
        metrics.map(Some)
    }
}
