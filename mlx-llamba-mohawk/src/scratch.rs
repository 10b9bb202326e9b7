//! Training from nothing: text and a recipe in, a small Llama or Llamba out.

use std::path::{Path, PathBuf};

use mlx_llamba::{Backend, Config, Dtype, Model};
use mlx_rs::transforms::eval;

use crate::data::{Companions, Encoder};
use crate::distill::llamba_logits;
use crate::evaluate::{Metrics, evaluate};
use crate::recipe::{ScratchRecipe, session};
use crate::run::{self, Note, Outcome, Tell, Texts};
use crate::stages::{Architecture, NextToken};
use crate::student::{self, Init, Shape};
use crate::train::{Ending, Event, Identity, Session, Stage, io};
use crate::{Batch, Parameters, Result};
use mlx_llamba_teacher::{self as teacher, Llama, LlamaConfig, Wanted};

/// Which kind of model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Transformer.
    Llama,
    /// A recurrent model.
    Llamba,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which kind of model.
    pub kind: Kind,
    /// A `tokenizer.json`, or a directory with one.
    pub tokenizer: PathBuf,
    /// Text: a file or a directory.
    pub data: PathBuf,
    /// The directory of the run, where the model is in the end.
    pub output: PathBuf,
    /// How.
    pub recipe: ScratchRecipe,
    /// Goes on with the run in `output`.
    pub resume: bool,
    /// Where tokens are kept, if not in `output`.
    pub cache: Option<PathBuf>,
}

/// Runs it, or what is left of it.
///
/// # Errors
/// As for [`distill`](crate::distill::distill).
pub fn train(job: &Job, tell: Tell<'_>) -> Result<Outcome> {
    let Job { output, recipe, .. } = job;
    run::expect_no_model(output, job.resume)?;
    Session::expect(output, job.resume)?;
    let companions = Companions::open(&job.tokenizer)?;
    let mut sizes = serde_json::to_value(&recipe.model).unwrap_or_default();
    if let Some(sizes) = sizes.as_object_mut() {
        let or_ours = |key: &str, value: serde_json::Value, sizes: &mut serde_json::Map<_, _>| {
            sizes.entry(key).or_insert(value);
        };
        or_ours("model_type", "llama".into(), sizes);
        or_ours("bos_token_id", companions.tokenizer.bos_id().into(), sizes);
        or_ours("eos_token_id", companions.tokenizer.eos_ids().into(), sizes);
    }
    let llama = LlamaConfig::from_json(Path::new("the recipe's [model]"), &sizes.to_string())?;
    let shape = Shape {
        d_state: Some(recipe.student.state).filter(|&state| state > 0),
        d_conv: recipe.student.conv,
        bias: recipe.student.bias,
        ..Shape::default()
    };
    let architecture = match job.kind {
        Kind::Llama => Architecture::Llama(llama.clone()),
        Kind::Llamba => Architecture::Llamba(student::config(&llama, &shape)?),
    };
    let (begin, end) = (recipe.data.begin.as_deref(), recipe.data.end.as_deref());
    let vocab = llama.vocab_size;
    let encoder = Encoder::new(&companions.tokenizer, companions.hash.clone(), vocab, begin, end)?;
    std::fs::create_dir_all(output).map_err(io("create", output))?;
    let cache = job.cache.as_ref().unwrap_or(output);
    let texts = Texts::open(&job.data, &recipe.data, &recipe.evaluation, &encoder, cache, tell)?;
    let windows = texts.windows(recipe.training.length, &[recipe.seed, 0])?;

    let mut identity = Identity::new();
    identity.insert("data".into(), texts.hash()[..16].into());
    run::identify(&mut identity, "kind", &format!("{:?}", job.kind).to_lowercase());
    run::identify(&mut identity, "seed", &recipe.seed);
    run::identify(&mut identity, "model", &sizes);
    run::identify(&mut identity, "student", &recipe.student);
    run::identify(&mut identity, "data", &recipe.data);
    run::identify(&mut identity, "training", &recipe.training);
    let options = session(&recipe.evaluation, &recipe.checkpoint);
    let start = || start(&llama, &architecture, recipe.seed);
    let mut session = Session::open(output, identity, options, job.resume, start)?;

    let done = session.state().progress.total_steps;
    let tokens = (windows.tokens(), texts.held_out_tokens());
    let steps = (done, recipe.training.steps());
    let model = describe(&architecture);
    if tell(Note::Begins { model, tokens, steps }).is_break() {
        return Ok(Outcome { ending: Ending::Stopped, metrics: None });
    }
    let backend = Backend::select(Dtype::Float32).map_err(mlx_llamba::Error::from)?;
    let objective = NextToken::new(architecture.clone());
    let stage = Stage {
        name: "training",
        index: 0,
        objective: &objective,
        options: &recipe.training,
        windows: &windows,
    };
    let mut metrics = None;
    let mut at = |event: Event<'_>| {
        if let Event::Evaluation { metrics: found, .. } = &event {
            metrics = Some(**found);
        }
        tell(Note::Train(event))
    };
    let mut measure = |parameters: &Parameters| measure(&architecture, parameters, &texts, backend);
    let ending = session.stage(&stage, &mut measure, &mut at)?;
    if ending == Ending::Done {
        let parameters = &session.state().parameters;
        run::publish(output, |path| save(&architecture, parameters, &companions, path))?;
    }
    Ok(Outcome { ending, metrics })
}

/// Random parameters; those of a Llamba are those of a student of a random Llama.
fn start(llama: &LlamaConfig, architecture: &Architecture, seed: u64) -> Result<Parameters> {
    let parameters = teacher::init(llama, seed)?;
    let parameters = match architecture {
        Architecture::Llama(_) => parameters,
        Architecture::Llamba(config) => {
            let options = Init { seed, ..Init::default() };
            student::init(llama, &parameters, config, &options)?
        }
    };
    eval(parameters.values())?;
    Ok(parameters)
}

fn describe(architecture: &Architecture) -> String {
    let count = |tensors: Vec<(String, Vec<usize>)>| {
        let sizes = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>());
        sizes.sum::<usize>() as f64 / 1e6
    };
    match architecture {
        Architecture::Llama(config) => format!(
            "a Llama of {:.1} M parameters: {} layers, width {}, {} heads of {}",
            count(config.tensors()),
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.head_dim
        ),
        Architecture::Llamba(config) => describe_llamba(config),
    }
}

/// A Llamba in a line.
pub(crate) fn describe_llamba(config: &Config) -> String {
    let (dims, tensors) = (config.dims(), config.tensors());
    let count: usize = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    format!(
        "a Llamba of {:.1} M parameters: {} layers, width {}, {} heads of {} with a state of {}",
        count as f64 / 1e6,
        config.n_layer,
        config.d_model,
        dims.h,
        dims.p,
        dims.n
    )
}

fn measure(
    architecture: &Architecture,
    parameters: &Parameters,
    texts: &Texts,
    backend: Backend,
) -> Result<Option<Metrics>> {
    if texts.held_out.is_empty() {
        return Ok(None);
    }
    Ok(Some(match architecture {
        Architecture::Llama(config) => {
            let llama = Llama::from_parameters(config, parameters, backend)?;
            let logits = |batch: &Batch| llama_logits(&llama, batch);
            evaluate(&texts.held_out, config.vocab_size, &logits, None)?
        }
        Architecture::Llamba(config) => {
            let model = Model::from_parameters(config, parameters, Dtype::Float32, backend)?;
            let logits = |batch: &Batch| llamba_logits(&model, batch);
            evaluate(&texts.held_out, config.vocab_size, &logits, None)?
        }
    }))
}

/// Logits of texts from their beginnings.
pub(crate) fn llama_logits(llama: &Llama, batch: &Batch) -> Result<mlx_rs::Array> {
    let wanted = Wanted { logits: true, ..Wanted::default() };
    let logits = llama.trace(&batch.tokens, batch.starts.as_ref(), wanted)?.logits;
    Ok(logits.ok_or("a trace without logits").map_err(mlx_rs::error::Exception::custom)?)
}

fn save(
    architecture: &Architecture,
    parameters: &Parameters,
    companions: &Companions,
    path: &Path,
) -> Result<PathBuf> {
    match architecture {
        Architecture::Llama(config) => {
            let made = teacher::save(config, parameters, None, path, true)?;
            for (name, bytes) in &companions.files {
                let file = made.join(name);
                std::fs::write(&file, bytes).map_err(io("write", &file))?;
            }
            Ok(made)
        }
        Architecture::Llamba(config) => {
            student::save(config, parameters, &companions.files, path, true)
        }
    }
}
