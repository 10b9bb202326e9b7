//! What a checkpoint is and what it takes to run it, without reading its weights.

use std::collections::BTreeMap;
use std::fmt;

use mlx_llamba_kernels::Backend;
use mlx_rs::Dtype;
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Kind, slots};
use crate::error::Result;

/// A summary for people and programs.
#[non_exhaustive]
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Directory or file.
    pub path: String,
    /// Layout it is stored in.
    pub layout: String,
    /// The same for the same arrays in every layout.
    pub fingerprint: String,
    /// The configuration, in the published form.
    pub config: serde_json::Value,
    /// Values of the model.
    pub parameters: u64,
    /// Bits a value takes on average.
    pub bits_per_weight: f64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Weight files with their lengths in bytes.
    pub files: Vec<(String, u64)>,
    /// Values by dtype; those of quantized matrices under their scheme.
    pub dtypes: BTreeMap<String, u64>,
    /// Bytes of one sequence's state on a CPU, all in float32. It does not grow with the text.
    pub state_bytes: u64,
    /// Bytes that running one sequence takes on a CPU, about, at the most, which is while it reads a
    /// long prompt: weights as they are stored (by plain MLX operations with their floats in
    /// float32), and [`Config::working_bytes`](crate::Config::working_bytes).
    pub memory_bytes: u64,
    /// What would compute it on the default device.
    pub kernels: String,
}

impl Summary {
    /// Summarizes a checkpoint.
    ///
    /// # Errors
    /// Those of [`Checkpoint::fingerprint`].
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config();
        let mut dtypes = BTreeMap::new();
        for slot in slots(config) {
            let scheme = checkpoint.scheme(slot.prefix()).filter(|_| slot.kind == Kind::Matrix);
            let name = match scheme {
                Some(s) => format!("{} bits, groups of {}, {}", s.bits, s.group_size, s.mode),
                None => checkpoint
                    .info(&slot.name)
                    .map_or_else(String::new, |info| format!("{:?}", info.dtype).to_lowercase()),
            };
            *dtypes.entry(name).or_default() += slot.shape.iter().product::<usize>() as u64;
        }
        let file = |(path, bytes): (&std::path::Path, usize)| {
            let name = path.file_name().unwrap_or(path.as_os_str());
            (name.to_string_lossy().into_owned(), bytes as u64)
        };
        let backend = Backend::select(Dtype::Float32)?;
        let state_bytes = config.state_bytes(4) as u64;
        let weights: u64 = checkpoint
            .names()
            .map(|info| match info.dtype {
                Dtype::Uint8 | Dtype::Uint32 => info.bytes as u64,
                _ if backend.reads_stored_floats() => info.bytes as u64,
                _ => 4 * info.shape.iter().product::<usize>() as u64,
            })
            .sum();
        Ok(Self {
            path: checkpoint.path().display().to_string(),
            layout: checkpoint.layout().to_string(),
            fingerprint: checkpoint.fingerprint()?,
            config: config.to_json(),
            parameters: checkpoint.parameters(),
            bits_per_weight: checkpoint.bits_per_weight(),
            tensor_bytes: checkpoint.tensor_bytes(),
            files: checkpoint.files().map(file).collect(),
            dtypes,
            state_bytes,
            memory_bytes: weights + config.working_bytes(),
            kernels: backend.describe(),
        })
    }
}

/// Bytes for people.
fn bytes(count: u64) -> String {
    let count = count as f64;
    match count {
        c if c >= 1e9 => format!("{:.2} GB", c / 1e9),
        c if c >= 1e6 => format!("{:.1} MB", c / 1e6),
        c => format!("{:.1} kB", c / 1e3),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (config, ssm) = (&self.config, &self.config["ssm_cfg"]);
        writeln!(f, "model        {}", self.path)?;
        writeln!(f, "layout       {}", self.layout)?;
        writeln!(f, "fingerprint  {}", self.fingerprint)?;
        writeln!(
            f,
            "sizes        {} layers, d_model {}, MLP {}, vocabulary {}{}",
            config["n_layer"],
            config["d_model"],
            config["mlp_cfg"]["intermediate_size"],
            config["vocab_size"],
            if config["tie_embeddings"] == true { ", tied" } else { "" }
        )?;
        writeln!(
            f,
            "mixer        {} heads in {} groups, state {}, expand {}, activation {}",
            ssm["n_v_heads"], ssm["n_qk_heads"], ssm["d_state"], ssm["expand"], ssm["activation"]
        )?;
        writeln!(f, "parameters   {:.3} M", self.parameters as f64 / 1e6)?;
        writeln!(
            f,
            "weights      {} ({:.3} bits per weight)",
            bytes(self.tensor_bytes),
            self.bits_per_weight
        )?;
        for (dtype, count) in &self.dtypes {
            writeln!(f, "  {:>9.3} M  {dtype}", *count as f64 / 1e6)?;
        }
        for (file, length) in &self.files {
            writeln!(f, "file         {file}, {}", bytes(*length))?;
        }
        writeln!(f, "state        {} per sequence, at any length", bytes(self.state_bytes))?;
        writeln!(
            f,
            "memory       about {} for one text on a CPU, at most: while it reads a long prompt",
            bytes(self.memory_bytes)
        )?;
        write!(f, "kernels      {}", self.kernels)
    }
}
