//! The configuration in the header of a Cartesia MLX file.
//!
//! The header's keys repeat the sizes of the tensors, and some are left over from other models. So
//! every size is taken from the tensors; the keys that the model was built from must agree with
//! them, and the others are ignored.

use std::collections::HashMap;

use mlx_llamba_kernels::Activation;
use serde_json::{Map, Value};

use super::{Config, Mlp, Ssm, limit};
use crate::error::FieldProblem;
use crate::files::{Fields, Problems};

/// The shapes of the file's tensors by name.
pub(crate) type Tensors<'a> = HashMap<&'a str, &'a [usize]>;

const MIXER: &str = "model.unique_layers.0.layer";
const MLP: &str = "model.unique_layers.1.layer";

pub(super) fn parse(
    metadata: &HashMap<String, String>,
    tensors: &Tensors<'_>,
) -> Result<Config, Vec<FieldProblem>> {
    let problems = Problems::default();
    let keys: Map<String, Value> =
        metadata.iter().map(|(key, text)| (key.clone(), scalar(text))).collect();
    let keys = Fields::new(&keys, &problems);
    let config = read(&keys, &Shapes { tensors, problems: &problems });
    check_mathematics(&keys);
    if let Some(config) = &config {
        check_sizes(&keys, config);
    }
    problems.into_result(config)
}

/// Parses a value of the header: JSON in a string, except for infinities, which JSON does not have.
fn scalar(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Reads sizes from tensors.
struct Shapes<'a> {
    tensors: &'a Tensors<'a>,
    problems: &'a Problems,
}

impl Shapes<'_> {
    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn size(&self, name: &str, axis: usize, max: usize) -> Option<usize> {
        let shape = self.tensors.get(name);
        let size = shape.and_then(|shape| shape.get(axis)).copied();
        let legal = size.filter(|size| (1..=max).contains(size));
        if legal.is_none() {
            let found = shape.map_or_else(|| "missing".to_owned(), |s| format!("of shape {s:?}"));
            self.problems.add(
                format!("tensor {name}"),
                found,
                format!("1 to {max} on axis {axis}"),
            );
        }
        legal
    }

    /// The number of layers: half the number of blocks, in which mixers and MLPs alternate.
    fn layers(&self) -> Option<usize> {
        let index = |name: &&str| -> Option<usize> {
            name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
        };
        let blocks = self.tensors.keys().filter_map(index).max().map_or(0, |i| i.saturating_add(1));
        if blocks == 0 || !blocks.is_multiple_of(2) || blocks / 2 > limit::LAYERS {
            let expected = format!("an even number from 2 to {}", 2 * limit::LAYERS);
            self.problems.add("number of model.layers", blocks, expected);
            return None;
        }
        Some(blocks / 2)
    }
}

fn read(keys: &Fields<'_>, shapes: &Shapes<'_>) -> Option<Config> {
    let d_model = shapes.size("model.norm.weight", 0, limit::WIDTH);
    let rows = shapes.size("embedding.encoder.weight", 0, limit::VOCAB);
    let n_layer = shapes.layers();
    let ssm = read_mixer(keys, shapes, d_model);
    let intermediate_size = shapes.size("model.layers.1.layer.gate_proj.weight", 0, limit::WIDTH);
    let rows = rows?;
    let (vocab_size, pad_vocab_size_multiple) = vocabulary(keys, rows).unwrap_or((rows, 1));
    Some(Config {
        vocab_size,
        pad_vocab_size_multiple,
        // A tied model's file has a head of its own too: it is quantized separately.
        tie_embeddings: !shapes.has("head.linear.weight"),
        lm_head_bias: shapes.has("head.linear.bias"),
        d_model: d_model?,
        n_layer: n_layer?,
        norm_epsilon: 1e-5,
        mlp: Mlp {
            intermediate_size: intermediate_size?,
            bias: shapes.has("model.layers.1.layer.gate_proj.bias"),
        },
        ssm: ssm?,
        quantization: None,
        split_a_log: false,
        eos: keys.ids("eos"),
        tokenizer: keys.get("tokenizer.name").and_then(Value::as_str).map(str::to_owned),
    })
}

/// `in_proj` has `conv_dim + d_inner + h` rows, and `conv_dim = d_inner + 2 h n`.
fn read_mixer(keys: &Fields<'_>, shapes: &Shapes<'_>, d_model: Option<usize>) -> Option<Ssm> {
    // A missing key has been reported; go on to find every problem.
    let swish = keys.flag(&format!("{MIXER}.conv_swish"), None).unwrap_or(false);
    let h = shapes.size("model.layers.0.layer.D", 0, limit::HEADS);
    let conv_dim = shapes.size("model.layers.0.layer.conv_weight", 0, limit::ROWS);
    let d_conv = shapes.size("model.layers.0.layer.conv_weight", 1, limit::CONV);
    let rows = shapes.size("model.layers.0.layer.in_proj.weight", 0, limit::ROWS);
    let (h, conv_dim, d_conv, rows) = (h?, conv_dim?, d_conv?, rows?);
    let d_model = d_model?;

    let d_inner = rows.saturating_sub(conv_dim + h);
    let expand = d_inner / d_model;
    let d_state = conv_dim.saturating_sub(d_inner) / (2 * h);
    let fits = d_inner == d_model * expand
        && d_inner.is_multiple_of(h)
        && conv_dim == d_inner + 2 * h * d_state
        && (1..=limit::EXPAND).contains(&expand)
        && (1..=limit::STATE).contains(&d_state);
    if !fits {
        shapes.problems.add(
            "tensor model.layers.0.layer.in_proj.weight",
            format!("of {rows} rows beside {conv_dim} convolution channels and {h} heads"),
            format!("(3 x expand x {d_model} + 2 x {h} x d_state + {h}) rows"),
        );
        return None;
    }
    Some(Ssm {
        d_state,
        n_v_heads: h,
        n_qk_heads: h,
        expand,
        chunk_size: 128,
        d_conv,
        conv_bias: shapes.has("model.layers.0.layer.conv_bias"),
        bias: shapes.has("model.layers.0.layer.in_proj.bias"),
        activation: if swish { Activation::Silu } else { Activation::Identity },
    })
}

/// The vocabulary and the padding that give the embedding's `rows`.
fn vocabulary(keys: &Fields<'_>, rows: usize) -> Option<(usize, usize)> {
    let n_tokens = keys.size("n_tokens", Some(rows), limit::VOCAB)?;
    let multiple = (0..=limit::PAD.ilog2())
        .map(|power| 1 << power)
        .find(|&multiple| n_tokens.next_multiple_of(multiple) == rows);
    if multiple.is_none() {
        keys.add("n_tokens", n_tokens, format!("the embedding's {rows} rows"));
    }
    Some((n_tokens, multiple?))
}

/// Checks the keys that select mathematics: this library has one kind.
fn check_mathematics(keys: &Fields<'_>) {
    let fixed = [
        ("_class_".to_owned(), Value::from("models.llamba.Llamba")),
        ("model.norm_type".to_owned(), "rms".into()),
        ("model.pre_norm".to_owned(), false.into()),
        ("model.post_norm".to_owned(), true.into()),
        ("model.final_proj".to_owned(), false.into()),
        ("model.unique_layers.0.norm_point".to_owned(), "pre".into()),
        ("model.unique_layers.1.norm_point".to_owned(), "pre".into()),
        (format!("{MLP}.glu"), true.into()),
        (format!("{MLP}.bugged"), false.into()),
        (format!("{MLP}.norm"), Value::Null),
    ];
    for (key, expected) in fixed {
        if let Some(found) = keys.get(&key).filter(|&found| *found != expected) {
            keys.add(&key, found, expected.to_string());
        }
    }
    let silu = "\"swish\" or \"silu\"";
    let _ = keys.word(&format!("{MLP}.activation"), silu, |word| {
        matches!(word, "swish" | "silu").then_some(())
    });
    // A limit on softplus(A_log), which is never negative: only one without effect is legal.
    let limits = [("dt_limit.0", "-Infinity", 0.0), ("dt_limit.1", "Infinity", f64::INFINITY)];
    for (key, word, bound) in limits {
        let key = format!("{MIXER}.{key}");
        if let Some(found) = keys.get(&key) {
            let harmless = found.as_str() == Some(word)
                || found.as_f64().is_some_and(|number| bound == 0.0 && number <= 0.0);
            if !harmless {
                keys.add(&key, found, word);
            }
        }
    }
}

/// Checks the keys that the model was built from against the sizes of its tensors.
fn check_sizes(keys: &Fields<'_>, config: &Config) {
    let ssm = &config.ssm;
    let sizes = [
        ("d_model".to_owned(), config.d_model),
        ("model.n_layer_repeats".to_owned(), config.n_layer),
        (format!("{MIXER}.kernel_size"), ssm.d_conv),
        (format!("{MIXER}.d_state"), ssm.d_state),
        (format!("{MIXER}.n_heads"), ssm.n_v_heads),
    ];
    for (key, expected) in sizes {
        if let Some(found) = keys.get(&key).filter(|v| v.as_u64() != Some(expected as u64)) {
            keys.add(&key, found, format!("{expected}, the size of the tensors"));
        }
    }
    let ratios = [
        (format!("{MIXER}.expand"), config.d_inner()),
        (format!("{MLP}.expand"), config.mlp.intermediate_size),
    ];
    for (key, width) in ratios {
        let fits = |v: &Value| {
            v.as_f64().is_some_and(|e| (e * config.d_model as f64 - width as f64).abs() < 1.0)
        };
        if let Some(found) = keys.get(&key).filter(|v| !fits(v)) {
            let ratio = width as f64 / config.d_model as f64;
            keys.add(&key, found, format!("{ratio}, the size of the tensors"));
        }
    }
    let flags = [(format!("{MIXER}.bias"), ssm.bias), (format!("{MLP}.bias"), config.mlp.bias)];
    for (key, expected) in flags {
        if let Some(found) = keys.get(&key).filter(|v| v.as_bool() != Some(expected)) {
            keys.add(&key, found, format!("{expected}, the size of the tensors"));
        }
    }
}
