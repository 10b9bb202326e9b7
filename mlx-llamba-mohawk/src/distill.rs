//! Distillation from beginning to end: a teacher, text and a recipe in, a student out.

use std::path::PathBuf;

use mlx_llamba::{Backend, Config, Dtype, Model};
use mlx_rs::Array;
use mlx_rs::transforms::eval;

use crate::data::{Companions, Encoder, Position, Windows};
use crate::evaluate::{Metrics, evaluate};
use crate::recipe::{Recipe, StageName, session};
use crate::run::{self, Note, Outcome, Tell, Texts};
use crate::scratch::{describe_llamba, llama_logits};
use crate::stages::{Alignment, Distillation, Orientation};
use crate::student::{self, Init, Shape, set_half_lives};
use crate::train::{Ending, Event, Identity, Session, Stage, StageOptions, io};
use crate::{Batch, Error, Objective, Parameters, Result};
use mlx_llamba_teacher::{Llama, Wanted};

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Job {
    /// A Llama: a directory or a GGUF file.
    pub teacher: PathBuf,
    /// A tokenizer, if not the teacher's own.
    pub tokenizer: Option<PathBuf>,
    /// Text: a file or a directory.
    pub data: PathBuf,
    /// The directory of the run, where the student is in the end.
    pub output: PathBuf,
    /// How; with the stages that are to run, and no others.
    pub recipe: Recipe,
    /// A student to begin with: its sizes are the recipe's.
    pub student: Option<PathBuf>,
    /// Goes on with the run in `output`.
    pub resume: bool,
    /// Where tokens are kept, if not in `output`.
    pub cache: Option<PathBuf>,
}

/// Runs it, or what is left of it.
///
/// # Errors
/// All that can be wrong with teacher, tokenizer, recipe and text is said before the first step.
/// As for [`Session::open`] and [`Session::stage`].
pub fn distill(job: &Job, tell: Tell<'_>) -> Result<Outcome> {
    let Job { output, recipe, .. } = job;
    run::expect_no_model(output, job.resume)?;
    Session::expect(output, job.resume)?;
    let backend = Backend::select(Dtype::Float32).map_err(mlx_llamba::Error::from)?;
    let teacher = Llama::open(&job.teacher, Dtype::Float32, backend)?;
    let context = teacher.config().max_position_embeddings;
    for (stage, options) in recipe.stages() {
        if options.length > context {
            let stage = stage.name().to_owned();
            return Err(Error::TooLong { stage, length: options.length, context });
        }
    }
    let config = student::config(teacher.config(), &shape(recipe))?;
    let companions = Companions::open(job.tokenizer.as_ref().unwrap_or(&job.teacher))?;
    let encoder = {
        let vocab = teacher.config().vocab_size;
        let (begin, end) = (recipe.data.begin.as_deref(), recipe.data.end.as_deref());
        Encoder::new(&companions.tokenizer, companions.hash.clone(), vocab, begin, end)?
    };
    std::fs::create_dir_all(output).map_err(io("create", output))?;
    let cache = job.cache.as_ref().unwrap_or(output);
    let evaluation = crate::recipe::EvaluationOptions {
        length: recipe.evaluation.length.min(context),
        ..recipe.evaluation.clone()
    };
    let texts = Texts::open(&job.data, &recipe.data, &evaluation, &encoder, cache, tell)?;
    // The same text in the same order, whichever stages came before.
    let windows = recipe
        .stages()
        .map(|(name, options)| texts.windows(options.length, &[recipe.seed, name as u64 + 1]))
        .collect::<Result<_>>()?;
    let run = Run { job, teacher, config, backend, texts, windows };
    let options = session(&recipe.evaluation, &recipe.checkpoint);
    let identity = run.identity()?;
    let mut session = Session::open(output, identity, options, job.resume, || run.start())?;
    let outcome = run.stages(&mut session, tell)?;
    if outcome.ending == Ending::Done {
        let parameters = &session.state().parameters;
        run::publish(output, |path| {
            student::save(&run.config, parameters, &companions.files, path, true)
        })?;
    }
    Ok(outcome)
}

/// The sizes that the recipe decides.
fn shape(recipe: &Recipe) -> Shape {
    let options = &recipe.student;
    Shape {
        d_state: Some(options.state).filter(|&state| state > 0),
        d_conv: options.conv,
        bias: options.bias,
        ..Shape::default()
    }
}

/// All that stays the same while it runs.
struct Run<'a> {
    job: &'a Job,
    teacher: Llama,
    config: Config,
    backend: Backend,
    texts: Texts,
    /// Of each stage.
    windows: Vec<Windows>,
}

impl Run<'_> {
    /// Everything that decides the student's bits.
    fn identity(&self) -> Result<Identity> {
        let recipe = &self.job.recipe;
        let mut identity = Identity::new();
        let mut add = |name: &str, value: String| identity.insert(name.to_owned(), value.into());
        add("teacher", run::fingerprint(&self.job.teacher)?);
        add("data", self.texts.hash()[..16].to_owned());
        if let Some(path) = &self.job.student {
            add("first student", run::fingerprint(path)?);
        }
        run::identify(&mut identity, "seed", &recipe.seed);
        run::identify(&mut identity, "student", &recipe.student);
        run::identify(&mut identity, "data", &recipe.data);
        for (stage, options) in recipe.stages() {
            run::identify(&mut identity, stage.name(), options);
        }
        Ok(identity)
    }

    /// The student before the first step.
    fn start(&self) -> Result<Parameters> {
        let recipe = &self.job.recipe;
        let parameters = match &self.job.student {
            Some(path) => {
                let (config, parameters) = student::load(path)?;
                if config.tensors() != self.config.tensors() {
                    return Err(Error::OtherStudent { path: path.clone() });
                }
                parameters
            }
            None => {
                let options = Init {
                    copy_attention: recipe.student.copy_qkvo,
                    scale: Some(recipe.student.copy_scale).filter(|&scale| scale > 0.0),
                    skip: recipe.student.skip,
                    seed: recipe.seed,
                };
                let theirs = self.teacher.parameters()?;
                let mut parameters =
                    student::init(self.teacher.config(), &theirs, &self.config, &options)?;
                self.set_half_lives(&mut parameters)?;
                parameters
            }
        };
        eval(parameters.values())?;
        Ok(parameters)
    }

    fn set_half_lives(&self, parameters: &mut Parameters) -> Result<()> {
        let half_lives = &self.job.recipe.student.half_lives;
        let Some(windows) = self.windows.first().filter(|_| !half_lives.is_empty()) else {
            return Ok(());
        };
        let (batch, _) = windows.batch(Position::default(), 4)?;
        let wanted = Wanted { hidden: true, ..Wanted::default() };
        let trace = self.teacher.trace(&batch.tokens, batch.starts.as_ref(), wanted)?;
        set_half_lives(&self.config, parameters, &trace.hidden, half_lives)
    }

    fn stages(&self, session: &mut Session, tell: Tell<'_>) -> Result<Outcome> {
        let recipe = &self.job.recipe;
        let steps = recipe.stages().map(|(_, options)| options.steps()).sum();
        let mut metrics = None;
        let done = session.state().progress.total_steps;
        let learned = self.windows.first().map_or(0, Windows::tokens);
        let tokens = (learned, self.texts.held_out_tokens());
        let model = describe_llamba(&self.config);
        if tell(Note::Begins { model, tokens, steps: (done, steps) }).is_break() {
            return Ok(Outcome { ending: Ending::Stopped, metrics });
        }
        for (index, ((name, options), windows)) in recipe.stages().zip(&self.windows).enumerate() {
            let (teacher, student) = (self.teacher.clone(), self.config.clone());
            let mut at = |event: Event<'_>| {
                if let Event::Evaluation { metrics: found, .. } = &event {
                    metrics = Some(**found);
                }
                tell(Note::Train(event))
            };
            let ending = match name {
                StageName::Orientation => {
                    let objective = Orientation::new(teacher, student).norms(options.norms);
                    let stage = stage(name, index, &objective, options, windows);
                    session.stage(&stage, &mut |p| self.measure(p), &mut at)?
                }
                StageName::Alignment => {
                    let objective = Alignment::new(teacher, student);
                    let objective = objective.norms(options.norms).mlp(options.mlp);
                    let stage = stage(name, index, &objective, options, windows);
                    session.stage(&stage, &mut |p| self.measure(p), &mut at)?
                }
                StageName::Distillation => {
                    let objective = Distillation::new(teacher, student)
                        .next_weight(options.next_token as f32)
                        .temperature(options.temperature as f32)
                        .recompute(options.recompute);
                    let stage = stage(name, index, &objective, options, windows);
                    session.stage(&stage, &mut |p| self.measure(p), &mut at)?
                }
            };
            if ending == Ending::Stopped {
                return Ok(Outcome { ending, metrics });
            }
        }
        Ok(Outcome { ending: Ending::Done, metrics })
    }

    /// Holds the student against the teacher on held-out text.
    fn measure(&self, parameters: &Parameters) -> Result<Option<Metrics>> {
        if self.texts.held_out.is_empty() {
            return Ok(None);
        }
        let model = Model::from_parameters(&self.config, parameters, Dtype::Float32, self.backend)?;
        let student = |batch: &Batch| llamba_logits(&model, batch);
        let teacher = |batch: &Batch| llama_logits(&self.teacher, batch);
        let vocab = self.teacher.config().vocab_size;
        Ok(Some(evaluate(&self.texts.held_out, vocab, &student, Some(&teacher))?))
    }
}

/// Logits of texts from their beginnings.
pub(crate) fn llamba_logits(model: &Model, batch: &Batch) -> Result<Array> {
    let state = model.state(batch.tokens.dim(0) as usize)?;
    Ok(model.forward(&batch.tokens, None, &state)?.0)
}

fn stage<'a, O: Objective>(
    name: StageName,
    index: usize,
    objective: &'a O,
    options: &'a StageOptions,
    windows: &'a Windows,
) -> Stage<'a, O> {
    Stage { name: name.name(), index, objective, options, windows }
}
