//! Summarizes a teacher's sizes and memory from the headers of its files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use mlx_llamba::units;
use serde::Serialize;

use crate::error::Result;
use crate::open::{Files, is_gguf};

/// A summary, readable by people and programs.
#[non_exhaustive]
#[derive(Debug, Clone, Serialize)]
pub struct TeacherSummary {
    /// Directory or file.
    pub path: String,
    /// The storage layout.
    pub layout: &'static str,
    /// The configuration, as Hugging Face writes it.
    pub config: serde_json::Value,
    /// The number of values of the model.
    pub parameters: u64,
    /// The mean number of bits per value.
    pub bits_per_weight: f64,
    /// The size of all tensors in bytes.
    pub tensor_bytes: u64,
    /// The number of values by the type in which they are stored.
    pub dtypes: BTreeMap<String, u64>,
    /// The size of a token in the cache in bytes, in float32.
    pub cache_bytes_per_token: u64,
    /// Canonical name, type and shape of every tensor.
    #[serde(skip)]
    pub tensors: Vec<(String, String, Vec<usize>)>,
}

impl TeacherSummary {
    /// Summarizes a directory or a GGUF file.
    ///
    /// # Errors
    /// Those of [`Llama::open`](crate::Llama::open).
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let files = Files::open(path)?;
        let config = files.config();
        let mut dtypes = BTreeMap::new();
        let mut tensor_bytes = 0;
        let mut tensors = Vec::new();
        for (name, kind, shape, bytes) in files.tensors() {
            *dtypes.entry(kind.clone()).or_default() += shape.iter().product::<usize>() as u64;
            tensor_bytes += bytes as u64;
            tensors.push((name, kind, shape));
        }
        Ok(Self {
            path: path.display().to_string(),
            layout: if is_gguf(path) { "GGUF" } else { "Hugging Face" },
            config: config.to_json(),
            parameters: config.parameters(),
            bits_per_weight: 8.0 * tensor_bytes as f64 / config.parameters() as f64,
            tensor_bytes,
            dtypes,
            cache_bytes_per_token: config.cache_bytes_per_token(4) as u64,
            tensors,
        })
    }
}

impl fmt::Display for TeacherSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        let mega = |count: u64| count as f64 / 1e6;
        writeln!(f, "teacher      {}", self.path)?;
        writeln!(f, "layout       Llama, {}", self.layout)?;
        writeln!(
            f,
            "sizes        {} layers, hidden_size {}, MLP {}, vocabulary {}{}",
            config["num_hidden_layers"],
            config["hidden_size"],
            config["intermediate_size"],
            config["vocab_size"],
            if config["tie_word_embeddings"] == true { ", tied" } else { "" }
        )?;
        writeln!(
            f,
            "attention    {} query heads and {} key/value heads of {}, context {}, base {}{}",
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["head_dim"],
            config["max_position_embeddings"],
            config["rope_theta"],
            match config["rope_scaling"]["rope_type"].as_str() {
                Some(kind) => format!(", {kind} scaling"),
                None => String::new(),
            }
        )?;
        writeln!(f, "parameters   {:.3} M", mega(self.parameters))?;
        let bytes = units::bytes(self.tensor_bytes);
        writeln!(f, "weights      {bytes} ({:.3} bits per weight)", self.bits_per_weight)?;
        for (dtype, count) in &self.dtypes {
            writeln!(f, "  {:>9.3} M  {dtype}", mega(*count))?;
        }
        let bytes = units::bytes(self.cache_bytes_per_token);
        write!(f, "cache        {bytes} per token of the text")
    }
}
