//! Summarizes a checkpoint without reading its weights.

use std::collections::BTreeMap;
use std::fmt;

use mlx_llamba_kernels::Backend;
use safetensors::Dtype;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::config::specs;
use crate::error::Result;
use crate::files::StoredTensor;
use crate::gpu_memory::of_mac;
use crate::units;

/// The memory that Macs with Apple silicon come with, in GiB.
const MACS: [u64; 13] = [8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512];

/// A summary of a checkpoint, readable by people and programs.
#[non_exhaustive]
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Directory or file.
    pub path: String,
    /// The layout in which it is stored.
    pub layout: String,
    /// A hash, the same for equal arrays in every layout.
    pub fingerprint: String,
    /// The configuration, in the published form.
    pub config: serde_json::Value,
    /// The number of values in the model.
    pub parameters: u64,
    /// Bits per weight on average.
    pub bits_per_weight: f64,
    /// The size of all tensors in bytes.
    pub tensor_bytes: u64,
    /// Weight files with their lengths in bytes.
    pub files: Vec<(String, u64)>,
    /// The number of values per dtype, or per scheme for quantized matrices.
    pub dtypes: BTreeMap<String, u64>,
    /// The size of one sequence's state on a CPU in bytes, all in float32. It does not grow with the
    /// text.
    pub state_bytes: u64,
    /// The approximate memory in bytes that running one sequence takes on a CPU at most, which is
    /// during the prefill of a long prompt: weights as stored (floats in float32 with plain MLX
    /// operations), and [`Config::working_bytes`](crate::Config::working_bytes).
    pub memory_bytes: u64,
    /// The memory of the smallest Mac, in bytes, whose GPU may use as much as that; `None` if there is none.
    pub mac_bytes: Option<u64>,
    /// The back end on the default device.
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
        for spec in specs(config) {
            let scheme = checkpoint.scheme(spec.prefix()).filter(|_| spec.is_matrix());
            let name = match scheme {
                Some(s) => format!("{} bits, groups of {}, {}", s.bits, s.group_size, s.mode),
                None => {
                    checkpoint.tensor(&spec.name).map_or_else(String::new, StoredTensor::dtype_name)
                }
            };
            *dtypes.entry(name).or_default() += spec.len() as u64;
        }
        let file = |(path, bytes): (&std::path::Path, usize)| {
            let name = path.file_name().unwrap_or(path.as_os_str());
            (name.to_string_lossy().into_owned(), bytes as u64)
        };
        let backend = Backend::select(mlx_rs::Dtype::Float32)?;
        let state_bytes = config.state_bytes(4) as u64;
        let weights: u64 = checkpoint
            .tensors()
            .map(|(_, tensor)| match tensor.dtype() {
                Dtype::F32 | Dtype::F16 | Dtype::BF16 if !backend.reads_stored_floats() => {
                    4 * tensor.shape().iter().product::<usize>() as u64
                }
                _ => tensor.bytes().len() as u64,
            })
            .sum();
        let needed = checkpoint.tensor_bytes() + config.working_bytes();
        Ok(Self {
            path: checkpoint.path().display().to_string(),
            layout: checkpoint.layout().to_string(),
            fingerprint: checkpoint.fingerprint(),
            config: config.to_json(),
            parameters: checkpoint.parameters(),
            bits_per_weight: checkpoint.bits_per_weight(),
            tensor_bytes: checkpoint.tensor_bytes(),
            files: checkpoint.files().map(file).collect(),
            dtypes,
            state_bytes,
            memory_bytes: weights + config.working_bytes(),
            mac_bytes: MACS.map(|gib| gib << 30).into_iter().find(|&mac| of_mac(mac) >= needed),
            kernels: backend.describe(),
        })
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
            units::bytes(self.tensor_bytes),
            self.bits_per_weight
        )?;
        for (dtype, count) in &self.dtypes {
            writeln!(f, "  {:>9.3} M  {dtype}", *count as f64 / 1e6)?;
        }
        for (file, length) in &self.files {
            writeln!(f, "file         {file}, {}", units::bytes(*length))?;
        }
        writeln!(f, "state        {} per sequence, at any length", units::bytes(self.state_bytes))?;
        writeln!(
            f,
            "memory       about {} for one text on a CPU, at most: during prefill of a long prompt",
            units::bytes(self.memory_bytes)
        )?;
        if let Some(mac) = self.mac_bytes {
            let (memory, allowed) = (mac >> 30, units::bytes(of_mac(mac)));
            writeln!(
                f,
                "Mac          with {memory} GB or more: macOS lets the GPU use {allowed} of it"
            )?;
        }
        write!(f, "kernels      {}", self.kernels)
    }
}
