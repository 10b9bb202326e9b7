//! Tiny random models with any valid configuration, and their forward pass in float64.

#![allow(non_snake_case)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use mlx_llamba_kernels::oracle::{self, State, Weights};
use mlx_llamba_kernels::{Activation, Dims};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// The variable parts of a configuration. The defaults are pairwise different sizes.
#[derive(Debug, Clone)]
pub struct Tiny {
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Rows are padded to a multiple of this.
    pub pad: usize,
    /// The head is the embedding.
    pub tied: bool,
    /// The head has a bias.
    pub head_bias: bool,
    /// Width.
    pub d: usize,
    /// Blocks.
    pub layers: usize,
    /// Width of the MLP.
    pub mlp: usize,
    /// The MLP's projections have biases.
    pub mlp_bias: bool,
    /// d_inner / d_model.
    pub expand: usize,
    /// Heads, groups, state, convolution width; p follows.
    pub heads: [usize; 4],
    /// The mixer's projections have biases, and there is no z_bias.
    pub bias: bool,
    /// The convolution has a bias.
    pub conv_bias: bool,
    /// Activation after the convolution.
    pub silu: bool,
    /// Epsilon of the final norm; large, so that its use elsewhere is noticed.
    pub epsilon: f64,
}

impl Default for Tiny {
    fn default() -> Self {
        Self {
            vocab: 45,
            pad: 8,
            tied: false,
            head_bias: false,
            d: 12,
            layers: 2,
            mlp: 20,
            mlp_bias: false,
            expand: 1,
            heads: [4, 2, 5, 4],
            bias: false,
            conv_bias: true,
            silu: false,
            epsilon: 0.5,
        }
    }
}

/// Named tensors: shape and values, exactly representable in bfloat16.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

impl Tiny {
    /// Returns the sizes of the mixer.
    pub fn dims(&self) -> Dims {
        let [h, g, n, k] = self.heads;
        Dims { h, g, p: self.d * self.expand / h, n, k }
    }

    /// Returns the number of rows of embedding and head.
    pub fn padded(&self) -> usize {
        self.vocab.next_multiple_of(self.pad)
    }

    /// Returns the configuration in its published form.
    pub fn config(&self) -> Value {
        let [h, g, n, k] = self.heads;
        json!({
            "model_type": "llamba", "vocab_size": self.vocab, "tie_embeddings": self.tied,
            "pad_vocab_size_multiple": self.pad, "lm_head_bias": self.head_bias, "d_model": self.d,
            "n_layer": self.layers, "norm_epsilon": self.epsilon,
            "mlp_cfg": { "intermediate_size": self.mlp, "bias": self.mlp_bias, "act_fn": "silu" },
            "ssm_cfg": {
                "d_state": n, "n_v_heads": h, "n_qk_heads": g, "expand": self.expand,
                "chunk_size": 128, "activation": if self.silu { "silu" } else { "identity" },
                "bias": self.bias, "d_conv": k, "conv_bias": self.conv_bias,
            },
        })
    }

    /// Returns random weights under their published names.
    pub fn tensors(&self, seed: u64) -> Tensors {
        let (dims, d, padded) = (self.dims(), self.d, self.padded());
        let mut shapes: Vec<(String, Vec<usize>)> = vec![
            ("backbone.embedding.weight".into(), vec![padded, d]),
            ("backbone.final_layernorm.weight".into(), vec![d]),
        ];
        for i in 0..self.layers {
            let mut add = |name: &str, shape: &[usize], wanted: bool| {
                if wanted {
                    shapes.push((format!("backbone.layers.{i}.{name}"), shape.to_vec()));
                }
            };
            add("input_layernorm.weight", &[d], true);
            add("post_attention_layernorm.weight", &[d], true);
            add("mixer.in_proj.weight", &[dims.in_proj_dim(), d], true);
            add("mixer.in_proj.bias", &[dims.in_proj_dim()], self.bias);
            add("mixer.conv1d.weight", &[dims.conv_dim(), 1, dims.k], true);
            add("mixer.conv1d.bias", &[dims.conv_dim()], self.conv_bias);
            add("mixer.z_bias", &[dims.d_inner()], !self.bias);
            add("mixer.D", &[dims.h], true);
            add("mixer.out_proj.weight", &[d, dims.d_inner()], true);
            add("mixer.out_proj.bias", &[d], self.bias);
            for (name, out, columns) in
                [("gate_proj", self.mlp, d), ("up_proj", self.mlp, d), ("down_proj", d, self.mlp)]
            {
                add(&format!("mlp.{name}.weight"), &[out, columns], true);
                add(&format!("mlp.{name}.bias"), &[out], self.mlp_bias);
            }
        }
        if !self.tied {
            shapes.push(("lm_head.weight".into(), vec![padded, d]));
        }
        if self.head_bias {
            shapes.push(("lm_head.bias".into(), vec![padded]));
        }
        let mut random = seed;
        let mut value = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let unit = (random >> 40) as f64 / f64::from(1 << 24) - 0.5;
            f64::from(f32::from_bits((unit as f32).to_bits() & 0xffff_0000))
        };
        let fill = |(name, shape): (String, Vec<usize>)| {
            let values = (0..shape.iter().product()).map(|_| value()).collect();
            (name, (shape, values))
        };
        shapes.into_iter().map(fill).collect()
    }

    /// Writes `config.json` and the tensors as `dtype`, in `shards` files.
    pub fn write(&self, directory: &Path, tensors: &Tensors, dtype: Dtype, shards: usize) {
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(directory.join(name), bytes).expect("writable");
        };
        write("config.json", self.config().to_string().as_bytes());
        let bytes: BTreeMap<&String, Vec<u8>> =
            tensors.iter().map(|(name, (_, values))| (name, encode(values, dtype))).collect();
        let file = |shard: usize| match shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{shards:05}.safetensors", shard + 1),
        };
        let mut index = HashMap::new();
        for shard in 0..shards {
            let mine = bytes.iter().enumerate().filter(|(i, _)| i % shards == shard);
            let views = mine.map(|(_, (name, bytes))| {
                index.insert((*name).clone(), file(shard));
                let shape = tensors[*name].0.clone();
                (*name, TensorView::new(dtype, shape, bytes).expect("fits"))
            });
            let views: Vec<_> = views.collect();
            write(&file(shard), &safetensors::serialize(views, None).expect("serializable"));
        }
        if shards > 1 {
            let index = json!({ "metadata": {}, "weight_map": index });
            write("model.safetensors.index.json", index.to_string().as_bytes());
        }
    }

    /// Computes logits (l, padded vocabulary) in float64, and the states after the last token.
    pub fn forward(&self, tensors: &Tensors, tokens: &[u32]) -> (Vec<f64>, Vec<State>) {
        let (dims, d) = (self.dims(), self.d);
        let get = |name: &str| tensors[name].1.as_slice();
        let linear = |prefix: &str, x: &[f64]| -> Vec<f64> {
            let bias = tensors.get(&format!("{prefix}.bias")).map(|(_, values)| values);
            get(&format!("{prefix}.weight"))
                .chunks_exact(x.len())
                .enumerate()
                .map(|(i, row)| {
                    let sum: f64 = row.iter().zip(x).map(|(w, x)| w * x).sum();
                    sum + bias.map_or(0.0, |bias| bias[i])
                })
                .collect()
        };
        let norm = |name: &str, x: &[f64], epsilon: f64| -> Vec<f64> {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (mean + epsilon).sqrt();
            x.iter().zip(get(name)).map(|(x, w)| x * scale * w).collect()
        };
        let add = |x: &mut Vec<f64>, y: Vec<f64>| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);

        let embedding = get("backbone.embedding.weight");
        let mut rows: Vec<Vec<f64>> =
            tokens.iter().map(|&id| embedding[id as usize * d..][..d].to_vec()).collect();
        let mut states = Vec::new();
        for i in 0..self.layers {
            let layer = format!("backbone.layers.{i}");
            let or_zeros = |name: &str, len: usize| {
                let found = tensors.get(&format!("{layer}.mixer.{name}"));
                found.map_or_else(|| vec![0.0; len], |(_, values)| values.clone())
            };
            let weights = Weights {
                conv_weight: get(&format!("{layer}.mixer.conv1d.weight")).to_vec(),
                conv_bias: or_zeros("conv1d.bias", dims.conv_dim()),
                z_bias: or_zeros("z_bias", dims.d_inner()),
                D: get(&format!("{layer}.mixer.D")).to_vec(),
            };
            let mut state = State {
                conv: vec![0.0; (dims.k - 1) * dims.conv_dim()],
                ssm: vec![0.0; dims.h * dims.p * dims.n],
            };
            let activation = if self.silu { Activation::Silu } else { Activation::Identity };
            for x in &mut rows {
                let u = norm(&format!("{layer}.input_layernorm.weight"), x, 1e-5);
                let row = linear(&format!("{layer}.mixer.in_proj"), &u);
                let y = oracle::mixer(&row, None, &mut state, &weights, dims, activation);
                add(x, linear(&format!("{layer}.mixer.out_proj"), &y));
                let u = norm(&format!("{layer}.post_attention_layernorm.weight"), x, 1e-5);
                let gate = linear(&format!("{layer}.mlp.gate_proj"), &u);
                let up = linear(&format!("{layer}.mlp.up_proj"), &u);
                let silu = |v: f64| v / (1.0 + (-v).exp());
                let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect();
                add(x, linear(&format!("{layer}.mlp.down_proj"), &inner));
            }
            states.push(state);
        }
        let logits = rows.iter().flat_map(|x| {
            let x = norm("backbone.final_layernorm.weight", x, self.epsilon);
            if self.tied {
                let head = embedding.chunks_exact(d).enumerate();
                let bias = tensors.get("lm_head.bias").map(|(_, values)| values);
                head.map(|(i, row)| {
                    let sum: f64 = row.iter().zip(&x).map(|(w, x)| w * x).sum();
                    sum + bias.map_or(0.0, |bias| bias[i])
                })
                .collect()
            } else {
                linear("lm_head", &x)
            }
        });
        (logits.collect(), states)
    }
}

/// Converts values to little-endian bytes of a dtype that represents them exactly, or nearly
/// (float16).
fn encode(values: &[f64], dtype: Dtype) -> Vec<u8> {
    let float = |v: &f64| *v as f32;
    match dtype {
        Dtype::F32 => values.iter().flat_map(|v| float(v).to_le_bytes()).collect(),
        Dtype::BF16 => {
            values.iter().flat_map(|v| ((float(v).to_bits() >> 16) as u16).to_le_bytes()).collect()
        }
        other => panic!("tiny models are not written as {other:?}"),
    }
}
