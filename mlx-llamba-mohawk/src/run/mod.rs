//! A training run from beginning to end: text and a recipe in, a model out.
//!
//! A run distills a student from a teacher in the stages of MOHAWK, or trains a model from random
//! parameters in a stage of its own; text, checkpoints, evaluation and output are the same.

mod cost;
mod identity;
mod output;
mod texts;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlx_llamba::Config;
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba_teacher::{self as teacher, Llama, LlamaConfig, Wanted, Window};
use mlx_rs::transforms::eval;

pub use cost::Cost;
pub(crate) use identity::{fingerprint, identify};

use crate::architecture::{Architecture, llama_logits};
use crate::data::{Companions, Encoder, Position, Windows};
use crate::error::io;
use crate::evaluate::{Metrics, evaluate};
use crate::recipe::{EvaluationOptions, MixerInit, Recipe, StageName};
use crate::stages::{Alignment, Distillation, NextToken, Orientation};
use crate::student::{self, Init, Shape, set_half_lives};
use crate::train::{
    Ending, Event, Identity, Session, SessionOptions, Stage, StageCost, StageOptions, State,
    Trainer,
};
use crate::{Batch, Error, Objective, Parameters, Result};
use texts::Texts;

/// Tokens that the calibration reads, in whole windows.
const CALIBRATION: usize = 8192;

/// The untrained baseline that a student has to beat (StreamingLLM, arXiv 2309.17453).
const BASELINE: Window = Window { size: 64, sinks: 4 };

/// The kind of model that a run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Transformer.
    Llama,
    /// A recurrent model.
    Llamba,
}

/// The model that a run trains, and what it learns from beside text.
#[derive(Debug, Clone)]
pub enum Task {
    /// Distills a Llamba from a teacher.
    Distill {
        /// A Llama: a directory or a GGUF file.
        teacher: PathBuf,
        /// A tokenizer, if not the teacher's own.
        tokenizer: Option<PathBuf>,
        /// A student to begin with, of the recipe's sizes.
        student: Option<PathBuf>,
    },
    /// Trains a model from random parameters.
    Train {
        /// The kind of model.
        kind: Kind,
        /// A `tokenizer.json`, or a directory with one.
        tokenizer: PathBuf,
    },
}

/// The arguments of a run.
#[derive(Debug, Clone)]
pub struct Job {
    /// The model, and what it learns from.
    pub task: Task,
    /// Text: a file or a directory.
    pub data: PathBuf,
    /// The directory of the run, which also receives the finished model.
    pub output: PathBuf,
    /// Options, with the stages that run and no others.
    pub recipe: Recipe,
    /// Resumes the run in `output`.
    pub resume: bool,
    /// The directory for the tokens of the text; `output` if `None`.
    pub cache: Option<PathBuf>,
    /// Bytes of memory that the run may use; it is refused if it needs more. `None`: no limit.
    pub memory: Option<u64>,
}

/// Progress of a run, at which the caller can stop it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Note<'a> {
    /// Text is being tokenized: bytes done, and in all.
    Tokenizing(u64, u64),
    /// Training is about to begin or to resume.
    Begins {
        /// A description of the model in one line.
        model: String,
        /// Tokens of the training text, and held-out tokens that evaluations read.
        tokens: (u64, u64),
        /// Steps that are done, and in all stages.
        steps: (u64, u64),
    },
    /// The memory and time that the rest of the run takes on this machine, estimated from one
    /// window of each stage.
    Cost(&'a Cost),
    /// The teacher with attention to its last 64 tokens and first 4, untrained, on the held-out
    /// text: a student has to be better than this to be worth its training.
    Baseline(&'a Metrics),
    /// A step, an evaluation or a checkpoint.
    Train(Event<'a>),
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Tells a finished run from one that the caller stopped.
    pub ending: Ending,
    /// The last evaluation of this call.
    pub metrics: Option<Metrics>,
}

/// Receives the progress of a run.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Note<'_>) -> ControlFlow<()>;

/// Runs a job, or what is left of it.
///
/// # Errors
/// Everything that can be wrong with models, tokenizer, recipe and text is reported before the
/// first step; [`Error::DoesNotFit`] too. Later those of [`Session::stage`].
pub fn run(job: &Job, tell: Tell<'_>) -> Result<Outcome> {
    let Job { output, recipe, .. } = job;
    output::expect_no_model(output, job.resume)?;
    Session::expect(output, job.resume)?;
    let backend = Backend::select(Dtype::Float32).map_err(mlx_llamba::Error::from)?;
    let Subject { llama, teacher, architecture, companions, identity } =
        Subject::open(job, backend)?;
    let encoder = {
        let (begin, end) = (recipe.data.begin.as_deref(), recipe.data.end.as_deref());
        let hash = companions.hash.clone();
        Encoder::new(&companions.tokenizer, hash, llama.vocab_size, begin, end)?
    };
    std::fs::create_dir_all(output).map_err(io("create", output))?;
    let cache = job.cache.as_ref().unwrap_or(output);
    let context = if teacher.is_some() { llama.max_position_embeddings } else { usize::MAX };
    let evaluation = EvaluationOptions {
        length: recipe.evaluation.length.min(context),
        ..recipe.evaluation.clone()
    };
    let texts = Texts::open(&job.data, &recipe.data, &evaluation, &encoder, cache, tell)?;
    // A stage reads the same text in the same order, whichever stages came before.
    let windows = recipe
        .stages()
        .map(|(name, options)| texts.windows(options.length, &[recipe.seed, name as u64]))
        .collect::<Result<_>>()?;
    let run = Run { job, llama, teacher, architecture, companions, backend, texts, windows };
    run.train(run.identity(identity), tell)
}

/// The models of a task.
struct Subject {
    /// The teacher's sizes; without a teacher, those of the Llama that is trained or that the
    /// Llamba could be the student of.
    llama: LlamaConfig,
    teacher: Option<Llama>,
    /// The model that is trained.
    architecture: Architecture,
    companions: Companions,
    /// The part of the run's identity that depends on the task.
    identity: Identity,
}

impl Subject {
    fn open(job: &Job, backend: Backend) -> Result<Self> {
        match &job.task {
            Task::Distill { teacher, tokenizer, student } => {
                Self::of_teacher(job, backend, teacher, tokenizer.as_deref(), student.as_deref())
            }
            Task::Train { kind, tokenizer } => Self::from_recipe(&job.recipe, *kind, tokenizer),
        }
    }

    fn of_teacher(
        job: &Job,
        backend: Backend,
        path: &Path,
        tokenizer: Option<&Path>,
        student: Option<&Path>,
    ) -> Result<Self> {
        let teacher = Llama::open(path, Dtype::Float32, backend)?;
        let llama = teacher.config().clone();
        let context = llama.max_position_embeddings;
        for (stage, options) in job.recipe.stages() {
            if options.length > context {
                let stage = stage.name().to_owned();
                return Err(Error::TooLong { stage, length: options.length, context });
            }
        }
        let architecture = Architecture::Llamba(student::config(&llama, &shape(&job.recipe))?);
        let companions = Companions::open(tokenizer.unwrap_or(path))?;
        let mut identity = Identity::new();
        identity.insert("teacher".into(), fingerprint(path)?.into());
        if let Some(path) = student {
            identity.insert("first student".into(), fingerprint(path)?.into());
        }
        Ok(Self { llama, teacher: Some(teacher), architecture, companions, identity })
    }

    fn from_recipe(recipe: &Recipe, kind: Kind, tokenizer: &Path) -> Result<Self> {
        let companions = Companions::open(tokenizer)?;
        let mut sizes = serde_json::to_value(&recipe.model).unwrap_or_default();
        if let Some(sizes) = sizes.as_object_mut() {
            let tokenizer = &companions.tokenizer;
            for (key, value) in [
                ("model_type", "llama".into()),
                ("bos_token_id", tokenizer.bos_id().into()),
                ("eos_token_id", tokenizer.eos_ids().into()),
            ] {
                sizes.entry(key).or_insert(value);
            }
        }
        let llama = LlamaConfig::from_json(Path::new("the recipe's [model]"), &sizes.to_string())?;
        let architecture = match kind {
            Kind::Llama => Architecture::Llama(llama.clone()),
            Kind::Llamba => Architecture::Llamba(student::config(&llama, &shape(recipe))?),
        };
        let mut identity = Identity::new();
        identify(&mut identity, "kind", &format!("{kind:?}").to_lowercase());
        identify(&mut identity, "model", &sizes);
        Ok(Self { llama, teacher: None, architecture, companions, identity })
    }
}

/// The student's sizes that the recipe decides.
fn shape(recipe: &Recipe) -> Shape {
    let options = &recipe.student;
    Shape {
        d_state: Some(options.state).filter(|&state| state > 0),
        d_conv: options.conv,
        bias: options.bias,
        ..Shape::default()
    }
}

/// Everything that stays the same during a run.
struct Run<'a> {
    job: &'a Job,
    llama: LlamaConfig,
    teacher: Option<Llama>,
    architecture: Architecture,
    companions: Companions,
    backend: Backend,
    texts: Texts,
    /// Those of each stage.
    windows: Vec<Windows>,
}

/// A use of a stage.
enum Work<'a> {
    /// Measures what a window costs and changes nothing.
    Rehearse(&'a State, &'a mut StageCost),
    Train(&'a mut Session, &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>),
}

impl Run<'_> {
    /// Everything that decides the bits of the model.
    fn identity(&self, mut identity: Identity) -> Identity {
        let recipe = &self.job.recipe;
        identity.insert("data".into(), self.texts.hash()[..16].into());
        identify(&mut identity, "seed", &recipe.seed);
        identify(&mut identity, "student", &recipe.student);
        identify(&mut identity, "data", &recipe.data);
        for (stage, options) in recipe.stages() {
            identify(&mut identity, stage.name(), options);
        }
        identity
    }

    /// Trains all stages and publishes the model.
    fn train(&self, identity: Identity, tell: Tell<'_>) -> Result<Outcome> {
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

    /// Tells what will be trained and what it costs; refuses what does not fit.
    fn announce(&self, state: &State, tell: Tell<'_>) -> Result<ControlFlow<()>> {
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

    /// Returns the parameters before the first step.
    fn start(&self) -> Result<Parameters> {
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

    /// Puts stage `index` of the recipe to use.
    fn stage(&self, index: usize, work: Work<'_>) -> Result<Ending> {
        let Some((name, options)) = self.job.recipe.stages().nth(index) else {
            return Ok(Ending::Done);
        };
        let place = (name, index);
        match (name, self.teacher.clone(), &self.architecture) {
            (StageName::Orientation, Some(teacher), Architecture::Llamba(student)) => {
                let objective = Orientation::new(teacher, student.clone())?.norms(options.norms);
                let objective = objective.compared(options.compared);
                self.put(work, place, &objective, options)
            }
            (StageName::Alignment, Some(teacher), Architecture::Llamba(student)) => {
                let objective = Alignment::new(teacher, student.clone());
                let objective = objective.norms(options.norms).mlp(options.mlp);
                self.put(work, place, &objective, options)
            }
            (StageName::Distillation, Some(teacher), Architecture::Llamba(student)) => {
                let objective = Distillation::new(teacher, student.clone())
                    .next_weight(options.next_token as f32)
                    .temperature(options.temperature as f32)
                    .recompute(options.recompute);
                self.put(work, place, &objective, options)
            }
            _ => self.put(work, place, &NextToken::new(self.architecture.clone()), options),
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
        let window = teacher.clone().with_window(Some(BASELINE));
        let windowed = |batch: &Batch| llama_logits(&window, batch);
        let whole = |batch: &Batch| llama_logits(teacher, batch);
        let vocab = self.architecture.vocab_size();
        Ok(Some(evaluate(&self.texts.held_out, vocab, &windowed, Some(&whole))?))
    }

    /// Evaluates the model on held-out text, and the teacher beside it if there is one.
    fn measure(&self, parameters: &Parameters) -> Result<Option<Metrics>> {
        if self.texts.held_out.is_empty() {
            return Ok(None);
        }
        let model = self.architecture.build(parameters, self.backend)?;
        let logits = |batch: &Batch| model.logits(batch);
        let vocab = self.architecture.vocab_size();
        let held_out = &self.texts.held_out;
        Ok(Some(match &self.teacher {
            Some(llama) => {
                let teacher = |batch: &Batch| llama_logits(llama, batch);
                evaluate(held_out, vocab, &logits, Some(&teacher))?
            }
            None => evaluate(held_out, vocab, &logits, None)?,
        }))
    }
}
