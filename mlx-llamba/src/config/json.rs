//! The `config.json` of the published PyTorch checkpoints and of our own.

use mlx_llamba_kernels::Activation;
use serde_json::{Value, json};

use super::{Config, Mlp, Quantization, Ssm, limit};
use crate::error::FieldProblem;
use crate::files::{Fields, Problems};

const D_CONV: usize = 4;
const CHUNK_SIZE: usize = 128;

pub(super) fn parse(value: &Value) -> Result<Config, Vec<FieldProblem>> {
    let problems = Problems::default();
    let config = match value {
        Value::Object(object) => read(&Fields::new(object, &problems), &problems),
        other => {
            problems.add("config", other, "an object");
            None
        }
    };
    problems.into_result(config)
}

fn read(f: &Fields<'_>, problems: &Problems) -> Option<Config> {
    if let Some(found) = f.get("model_type").filter(|v| v.as_str() != Some("llamba")) {
        let distill = if found == "llama" { ", which distill makes of a Llama" } else { "" };
        f.add("model_type", found, format!("\"llamba\"{distill}"));
    }
    let vocab_size = f.size("vocab_size", None, limit::VOCAB);
    let pad_vocab_size_multiple = f.size("pad_vocab_size_multiple", Some(8), limit::PAD);
    let tie_embeddings = f.flag("tie_embeddings", Some(false));
    let lm_head_bias = f.flag("lm_head_bias", Some(false));
    let d_model = f.size("d_model", None, limit::WIDTH);
    let n_layer = f.size("n_layer", Some(32), limit::LAYERS);
    let norm_epsilon = f.epsilon("norm_epsilon", 1e-5);
    let mlp = read_mlp(f);
    let ssm = read_ssm(f, d_model);
    let split_a_log = f.flag("split_a_log", Some(false));
    let eos = f.ids("eos_token_id");
    let tokenizer = f.get("tokenizer_name").and_then(Value::as_str).map(str::to_owned);
    let quantization = read_quantization(f, problems);
    let config = Config {
        vocab_size: vocab_size?,
        pad_vocab_size_multiple: pad_vocab_size_multiple?,
        tie_embeddings: tie_embeddings?,
        lm_head_bias: lm_head_bias?,
        d_model: d_model?,
        n_layer: n_layer?,
        norm_epsilon: norm_epsilon?,
        mlp: mlp?,
        ssm: ssm?,
        quantization,
        split_a_log: split_a_log?,
        eos,
        tokenizer,
    };
    check_products(&config, problems);
    Some(config)
}

fn read_mlp(f: &Fields<'_>) -> Option<Mlp> {
    let Some(f) = f.nested("mlp_cfg").ok()? else {
        return Some(Mlp { intermediate_size: 14336, bias: false });
    };
    let intermediate_size = f.size("intermediate_size", None, limit::WIDTH);
    let bias = f.flag("bias", None);
    let silu =
        f.word("act_fn", "\"silu\" or \"swish\"", |w| matches!(w, "silu" | "swish").then_some(()));
    silu?;
    Some(Mlp { intermediate_size: intermediate_size?, bias: bias? })
}

fn read_ssm(f: &Fields<'_>, d_model: Option<usize>) -> Option<Ssm> {
    let ssm = match f.nested("ssm_cfg").ok()? {
        None => Ssm {
            d_state: 64,
            n_v_heads: 32,
            n_qk_heads: 32,
            expand: 1,
            chunk_size: CHUNK_SIZE,
            d_conv: D_CONV,
            conv_bias: true,
            bias: false,
            activation: Activation::Identity,
        },
        Some(f) => {
            let d_state = f.size("d_state", None, limit::STATE);
            let n_v_heads = f.size("n_v_heads", None, limit::HEADS);
            let n_qk_heads = f.size("n_qk_heads", None, limit::HEADS);
            let expand = f.size("expand", None, limit::EXPAND);
            let chunk_size = f.size("chunk_size", Some(CHUNK_SIZE), limit::CHUNK);
            let d_conv = f.size("d_conv", Some(D_CONV), limit::CONV);
            let conv_bias = f.flag("conv_bias", Some(true));
            let bias = f.flag("bias", None);
            let activation =
                f.word("activation", "\"identity\", \"silu\" or \"swish\"", |w| match w {
                    "identity" => Some(Activation::Identity),
                    "silu" | "swish" => Some(Activation::Silu),
                    _ => None,
                });
            let ratio = n_v_heads.zip(n_qk_heads).filter(|(h, g)| !h.is_multiple_of(*g));
            if let Some((h, g)) = ratio {
                f.add("n_qk_heads", g, format!("a divisor of n_v_heads = {h}"));
            }
            Ssm {
                d_state: d_state?,
                n_v_heads: n_v_heads?,
                n_qk_heads: n_qk_heads?,
                expand: expand?,
                chunk_size: chunk_size?,
                d_conv: d_conv?,
                conv_bias: conv_bias?,
                bias: bias?,
                activation: activation?,
            }
        }
    };
    let d_inner = d_model? * ssm.expand;
    if !d_inner.is_multiple_of(ssm.n_v_heads) {
        f.add(
            "ssm_cfg.n_v_heads",
            ssm.n_v_heads,
            format!("a divisor of d_model * expand = {d_inner}"),
        );
    }
    Some(ssm)
}

/// Reads the block, which `mlx-lm` writes twice, under two names.
fn read_quantization(f: &Fields<'_>, problems: &Problems) -> Option<Quantization> {
    let (block, alias) = (f.get("quantization"), f.get("quantization_config"));
    if block.is_some() && alias.is_some() && block != alias {
        f.add("quantization_config", "another value", "the same as quantization");
    }
    match (block, alias) {
        (Some(block), _) => Quantization::parse(block, "quantization", problems),
        (None, Some(alias)) => Quantization::parse(alias, "quantization_config", problems),
        (None, None) => None,
    }
}

/// Checks that rows fit 31 bits, as MLX requires, and that matrices are addressable.
fn check_products(config: &Config, problems: &Problems) {
    let (d, dims) = (config.d_model, config.dims());
    let rows = dims.in_proj_dim();
    if rows > limit::ROWS || rows * d > limit::ELEMENTS {
        problems.add(
            "ssm_cfg",
            format!("in_proj of {rows} x {d}"),
            format!("at most {} rows and {} elements", limit::ROWS, limit::ELEMENTS),
        );
    }
    if config.padded_vocab() * d > limit::ELEMENTS {
        problems.add(
            "vocab_size",
            format!("an embedding of {} x {d}", config.padded_vocab()),
            format!("at most {} elements", limit::ELEMENTS),
        );
    }
}

pub(super) fn write(config: &Config) -> Value {
    let (mlp, ssm) = (&config.mlp, &config.ssm);
    let mut value = json!({
        "model_type": "llamba",
        "vocab_size": config.vocab_size,
        "tie_embeddings": config.tie_embeddings,
        "pad_vocab_size_multiple": config.pad_vocab_size_multiple,
        "lm_head_bias": config.lm_head_bias,
        "d_model": config.d_model,
        "n_layer": config.n_layer,
        "resid_dropout": 0.0,
        "norm_epsilon": config.norm_epsilon,
        "mlp_cfg": {
            "intermediate_size": mlp.intermediate_size,
            "bias": mlp.bias,
            "act_fn": "silu",
        },
        "ssm_cfg": {
            "d_state": ssm.d_state,
            "n_v_heads": ssm.n_v_heads,
            "n_qk_heads": ssm.n_qk_heads,
            "expand": ssm.expand,
            "chunk_size": ssm.chunk_size,
            "activation": match ssm.activation {
                Activation::Identity => "identity",
                Activation::Silu => "silu",
            },
            "bias": ssm.bias,
        },
    });
    if ssm.d_conv != D_CONV {
        value["ssm_cfg"]["d_conv"] = json!(ssm.d_conv);
    }
    if !ssm.conv_bias {
        value["ssm_cfg"]["conv_bias"] = json!(false);
    }
    if let Some(quantization) = &config.quantization {
        value["quantization"] = quantization.to_json();
        value["quantization_config"] = quantization.to_json();
    }
    if config.split_a_log {
        value["split_a_log"] = json!(true);
    }
    if !config.eos.is_empty() {
        value["eos_token_id"] = json!(config.eos);
    }
    if let Some(tokenizer) = &config.tokenizer {
        value["tokenizer_name"] = json!(tokenizer);
    }
    value
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::Error;

    const PUBLISHED_3B: &str = r#"{"model_type":"llamba","vocab_size":128256,
        "tie_embeddings":true,"pad_vocab_size_multiple":8,"lm_head_bias":false,"d_model":3072,
        "n_layer":28,"resid_dropout":0.0,"norm_epsilon":1e-05,
        "mlp_cfg":{"intermediate_size":8192,"bias":false,"act_fn":"silu"},
        "ssm_cfg":{"d_state":64,"n_v_heads":32,"n_qk_heads":32,"expand":1,"chunk_size":128,
        "activation":"identity","bias":false}}"#;

    fn parse_text(text: &str) -> crate::Result<Config> {
        Config::from_json(Path::new("config.json"), text)
    }

    fn fields(text: &str) -> Vec<String> {
        match parse_text(text) {
            Err(Error::Config { problems, .. }) => {
                problems.into_iter().map(|problem| problem.field).collect()
            }
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn published_3b_has_the_published_sizes() {
        let config = parse_text(PUBLISHED_3B).unwrap();
        assert_eq!(config.dims().in_proj_dim(), 10272);
        assert_eq!(config.dims().conv_dim(), 7168);
        assert_eq!((config.dims().p, config.ssm.d_conv, config.ssm.conv_bias), (96, 4, true));
        assert_eq!(config.padded_vocab(), 128256);
    }

    #[test]
    fn writing_gives_the_published_form_back() {
        let config = parse_text(PUBLISHED_3B).unwrap();
        let published: Value = serde_json::from_str(PUBLISHED_3B).unwrap();
        assert_eq!(config.to_json(), published);
    }

    #[test]
    fn what_differs_from_the_defaults_survives_a_round_trip() {
        let mut config = parse_text(PUBLISHED_3B).unwrap();
        config.ssm.d_conv = 3;
        config.ssm.conv_bias = false;
        config.split_a_log = true;
        config.eos = vec![1, 2];
        config.tokenizer = Some("a/b".into());
        let scheme = mlx_llamba_kernels::Scheme::new(64, 4, Default::default()).unwrap();
        let overrides = [("lm_head".to_owned(), None), ("x".to_owned(), Some(scheme))].into();
        config.quantization = Some(Quantization { scheme, overrides });
        assert_eq!(parse_text(&config.to_json().to_string()).unwrap(), config);
    }

    #[test]
    fn numbers_of_python_are_read_where_they_do_not_matter() {
        let text = PUBLISHED_3B.replacen('{', r#"{"limit":[0.0,Infinity],"x":NaN,"#, 1);
        assert_eq!(parse_text(&text).unwrap(), parse_text(PUBLISHED_3B).unwrap());
        assert_eq!(fields(&PUBLISHED_3B.replace("1e-05", "NaN")), ["norm_epsilon"]);
    }

    #[test]
    fn absent_fields_take_the_documented_defaults() {
        let config = parse_text(r#"{"vocab_size":100,"d_model":4096}"#).unwrap();
        assert_eq!(
            (config.n_layer, config.tie_embeddings, config.padded_vocab()),
            (32, false, 104)
        );
        assert_eq!(config.mlp.intermediate_size, 14336);
        assert_eq!((config.dims().h, config.dims().g, config.dims().n), (32, 32, 64));
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let text = PUBLISHED_3B
            .replace("\"llamba\"", "\"mamba2\"")
            .replace("128256", "-1")
            .replace("3072", "0")
            .replace("\"n_layer\":28", "\"n_layer\":2.5")
            .replace("8192", "99999999999999999999")
            .replace("\"d_state\":64", "\"d_state\":\"64\"")
            .replace("\"bias\":false}}", "\"bias\":1}}")
            .replace("1e-05", "-1");
        let expected = [
            "model_type",
            "vocab_size",
            "d_model",
            "n_layer",
            "norm_epsilon",
            "mlp_cfg.intermediate_size",
            "ssm_cfg.d_state",
            "ssm_cfg.bias",
        ];
        assert_eq!(fields(&text), expected);
    }

    #[test]
    fn mathematics_has_no_silent_default_inside_a_block() {
        let text = PUBLISHED_3B.replace("\"activation\":\"identity\",", "");
        assert_eq!(fields(&text), ["ssm_cfg.activation"]);
        let text =
            PUBLISHED_3B.replace("\"expand\":1,", "").replace("\"act_fn\":\"silu\"", "\"x\":1");
        assert_eq!(fields(&text), ["mlp_cfg.act_fn", "ssm_cfg.expand"]);
    }

    #[test]
    fn heads_that_do_not_divide_are_named() {
        let text = PUBLISHED_3B.replace("\"n_qk_heads\":32", "\"n_qk_heads\":5");
        assert_eq!(fields(&text), ["ssm_cfg.n_qk_heads"]);
        let text = PUBLISHED_3B
            .replace("\"n_qk_heads\":32", "\"n_qk_heads\":7")
            .replace("\"n_v_heads\":32", "\"n_v_heads\":7");
        assert_eq!(fields(&text), ["ssm_cfg.n_v_heads"]);
    }

    #[test]
    fn huge_but_legal_sizes_do_not_overflow() {
        let text = r#"{"vocab_size":16777216,"d_model":1048576,"n_layer":4096,"ssm_cfg":{
            "d_state":65536,"n_v_heads":65536,"n_qk_heads":65536,"expand":64,"bias":false,
            "activation":"silu"}}"#;
        assert_eq!(fields(text), ["ssm_cfg", "vocab_size"]);
    }

    #[test]
    fn quantization_block_is_read_as_mlx_lm_writes_it() {
        let block = r#"{"group_size":32,"bits":8,"mode":"affine","lm_head":false,
            "backbone.layers.0.mixer.in_proj":{"group_size":64,"bits":6}}"#;
        let text = |keys: &str| PUBLISHED_3B.replacen('{', &format!("{{{keys},"), 1);
        let both = text(&format!(r#""quantization":{block},"quantization_config":{block}"#));
        let q = parse_text(&both).unwrap().quantization.unwrap();
        assert_eq!((q.scheme.group_size, q.scheme.bits), (32, 8));
        assert_eq!(q.scheme_of("lm_head"), None);
        assert_eq!(q.scheme_of("backbone.layers.0.mixer.in_proj").unwrap().bits, 6);
        assert_eq!(q.scheme_of("backbone.layers.1.mixer.in_proj").unwrap().bits, 8);
        let alias = parse_text(&text(&format!(r#""quantization_config":{block}"#))).unwrap();
        assert_eq!(alias.quantization.unwrap(), q);
        let bad = text(r#""quantization":{"group_size":33,"bits":4,"a":{"bits":4},"b":3}"#);
        let expected = ["quantization", "quantization.a.group_size", "quantization.b"];
        assert_eq!(fields(&bad), expected);
        let differ = text(&format!(
            r#""quantization":{block},"quantization_config":{{"group_size":64,"bits":4}}"#
        ));
        assert_eq!(fields(&differ), ["quantization_config"]);
    }
}
