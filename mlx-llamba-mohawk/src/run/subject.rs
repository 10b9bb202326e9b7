//! The models of a task, before anything is trained.

use std::path::Path;

use mlx_llamba::kernels::Backend;
use mlx_llamba_kernels::mlx::current_device;
use mlx_llamba_teacher::{Llama, LlamaConfig};
use mlx_rs::DeviceType;

use super::job::{Job, Kind, Task};
use super::{fingerprint, identify};
use crate::architecture::Architecture;
use crate::data::Companions;
use crate::recipe::Recipe;
use crate::student::{self, Shape};
use crate::train::Identity;
use crate::{Error, Result};

/// The models of a task.
pub(super) struct Subject {
    /// The teacher's sizes. Without a teacher, those of the Llama that is trained, or whose student
    /// the Llamba could be.
    pub(super) llama: LlamaConfig,
    pub(super) teacher: Option<Llama>,
    /// The model that is trained.
    pub(super) architecture: Architecture,
    pub(super) companions: Companions,
    /// The part of the run's identity that depends on the task.
    pub(super) identity: Identity,
}

impl Subject {
    pub(super) fn open(job: &Job) -> Result<Self> {
        match &job.task {
            Task::Distill { teacher, tokenizer, student } => {
                Self::of_teacher(job, teacher, tokenizer.as_deref(), student.as_deref())
            }
            Task::Train { kind, tokenizer } => Self::from_recipe(&job.recipe, *kind, tokenizer),
        }
    }

    fn of_teacher(
        job: &Job,
        path: &Path,
        tokenizer: Option<&Path>,
        student: Option<&Path>,
    ) -> Result<Self> {
        let dtype = job.recipe.compute.dtype();
        let backend = Backend::select(dtype).map_err(mlx_llamba::Error::from)?;
        let teacher = Llama::open(path, dtype, backend)?;
        // GPUs multiply many rows faster by dense matrices.
        let gpu = matches!(current_device()?, DeviceType::Gpu);
        let teacher = if gpu { teacher.dequantized()? } else { teacher };
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
