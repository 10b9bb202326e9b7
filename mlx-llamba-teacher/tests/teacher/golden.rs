//! Logits, hidden states and attention against PyTorch in float64.

use std::path::Path;

use mlx_llamba::files::TokenizerFiles;
use mlx_llamba::kernels::{Backend, Mode, Quantized, Scheme};
use mlx_llamba::mlx::Dtype;
use mlx_llamba_teacher::{Llama, LlamaConfig, Parameters, Wanted, Window, save};
use mlx_rs::Array;
use mlx_rs::ops::{concatenate, stack};
use safetensors::tensor::{SafeTensors, TensorView, serialize_to_file};

use crate::support::{Golden, VARIANTS, assert_close, fixture, open};

/// Measured: at most 1.1e-6 of the largest value.
const TOLERANCE: f32 = 4e-6;
const ALL: Wanted = Wanted { hidden: true, attention: true, logits: true };

fn check(llama: &Llama, name: &str) {
    let golden = Golden::open(name);
    let (tokens, starts) = (golden.tokens(), golden.starts());
    for (case, starts) in [("whole", None), ("documents", Some(&starts))] {
        let trace = llama.trace(&tokens, starts, ALL).unwrap();
        let all = [
            ("hidden", stack(&trace.hidden, 0).unwrap()),
            ("attention", stack(&trace.attention, 0).unwrap()),
            ("logits", trace.logits.unwrap()),
        ];
        for (what, found) in all {
            let key = format!("{case}.{what}");
            assert_close(&format!("{name} {key}"), &found, &golden.array(&key), TOLERANCE);
        }
    }
    let window = Some(Window { size: 3, sinks: 2 });
    let llama = llama.clone().with_window(window);
    let wanted = Wanted { logits: true, ..Wanted::default() };
    let trace = llama.trace(&tokens, Some(&starts), wanted).unwrap();
    assert!(trace.hidden.is_empty() && trace.attention.is_empty());
    let expected = golden.array("window.logits");
    assert_close(&format!("{name} window"), &trace.logits.unwrap(), &expected, TOLERANCE);
}

#[test]
fn plain_operations_compute_what_the_definition_says() {
    VARIANTS.iter().for_each(|name| check(&open(name, Backend::PLAIN), name));
}

#[test]
fn cpu_kernels_compute_what_the_definition_says() {
    VARIANTS.iter().for_each(|name| check(&open(name, Backend::CPU), name));
}

#[test]
fn parameters_make_the_same_model_again() {
    for name in VARIANTS {
        let llama = open(name, Backend::CPU);
        let parameters = llama.parameters().unwrap();
        assert_eq!(parameters.len(), llama.config().tensors().len());
        check(&Llama::from_parameters(llama.config(), &parameters, Backend::PLAIN).unwrap(), name);
    }
}

#[test]
fn a_saved_llama_is_the_same() {
    let temporary = tempfile::tempdir().unwrap();
    for name in VARIANTS {
        let llama = open(name, Backend::PLAIN);
        let output = temporary.path().join(name);
        let parameters = llama.parameters().unwrap();
        let companions = TokenizerFiles::default().with("tokenizer.json", &b"{}"[..]);
        save(llama.config(), &parameters, &companions, &output, false).unwrap();
        assert_eq!(std::fs::read(output.join("tokenizer.json")).unwrap(), b"{}");
        let again = Llama::open(&output, llama.dtype(), Backend::PLAIN).unwrap();
        assert_eq!(again.config(), llama.config());
        check(&again, name);
        assert!(
            save(llama.config(), &parameters, &TokenizerFiles::default(), &output, false).is_err()
        );
    }
}

#[test]
fn configurations_survive_a_round_trip() {
    for name in VARIANTS {
        let path = fixture(name).join("config.json");
        let config = LlamaConfig::from_json(&path, &std::fs::read_to_string(&path).unwrap());
        let config = config.unwrap();
        let again = LlamaConfig::from_json(&path, &config.to_json().to_string()).unwrap();
        assert_eq!(again, config);
    }
}

/// The tensors of a fixture, written again by `change` as one file or several.
fn rewritten(name: &str, write: impl Fn(&std::path::Path, Vec<(String, TensorView<'_>)>)) -> Llama {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path();
    std::fs::copy(fixture(name).join("config.json"), path.join("config.json")).unwrap();
    let bytes = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
    write(path, SafeTensors::deserialize(&bytes).unwrap().tensors());
    let llama = Llama::open(path, Dtype::Float32, Backend::PLAIN).unwrap();
    llama.materialize(&mut mlx_llamba::progress::ignore).unwrap();
    llama
}

#[test]
fn shards_are_one_model() {
    let llama = rewritten("plain", |path, tensors| {
        let (mut map, half) = (serde_json::Map::new(), tensors.len() / 2);
        for (i, part) in tensors.chunks(half).enumerate() {
            let file = format!("model-{i}.safetensors");
            map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
            serialize_to_file(part.to_vec(), None, &path.join(file)).unwrap();
        }
        let index = serde_json::json!({ "weight_map": map }).to_string();
        std::fs::write(path.join("model.safetensors.index.json"), index).unwrap();
    });
    check(&llama, "plain");
}

#[test]
fn tensors_that_say_nothing_new_are_left_out() {
    // The variant is tied: its head is the embedding, and some tools write it a second time.
    let llama = rewritten("biases", |path, mut tensors| {
        let embedding = tensors.iter().find(|(name, _)| name == "model.embed_tokens.weight");
        let embedding = embedding.unwrap().1.clone();
        static SPEEDS: [u8; 8] = [0; 8];
        let speeds = TensorView::new(safetensors::Dtype::F32, vec![2], &SPEEDS).unwrap();
        tensors.push(("lm_head.weight".into(), embedding));
        tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), speeds));
        serialize_to_file(tensors, None, &path.join("model.safetensors")).unwrap();
    });
    check(&llama, "biases");
    assert_eq!(llama.parameters().unwrap().len(), llama.config().tensors().len());
}

/// The GGUF files of the families are the directories of the same names.
#[test]
fn families_in_gguf_files() {
    for name in ["qwen2", "qwen3", "granite", "smollm3"] {
        let path = fixture(&format!("{name}.gguf"));
        let llama = Llama::open(path, Dtype::Float32, Backend::CPU).unwrap();
        let directory = open(name, Backend::CPU);
        let [found, expected] = [&llama, &directory].map(|llama| {
            // Not in these files, or rounded in their metadata.
            LlamaConfig { bos: None, eos: Vec::new(), rms_norm_eps: 0.0, ..llama.config().clone() }
        });
        assert_eq!(found, expected, "{name}");
        check(&llama, name);
    }
}

/// Matrices of codes as mlx-lm stores them: a scheme for most, another for one, floats for one; two
/// projections are parts of one matrix.
#[test]
fn folders_that_mlx_lm_quantized() {
    let text = std::fs::read_to_string(fixture("phi3/config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in [("hidden_size", 64), ("intermediate_size", 96), ("num_attention_heads", 4)]
    {
        json[key] = value.into();
    }
    let block = serde_json::json!({
        "group_size": 32, "bits": 4,
        "model.layers.1.mlp.down_proj": { "group_size": 32, "bits": 8 },
        "model.layers.0.mlp.down_proj": false,
    });
    let config = LlamaConfig::from_json(Path::new("config.json"), &json.to_string()).unwrap();
    (json["quantization"], json["quantization_config"]) = (block.clone(), block);
    let random = mlx_llamba_teacher::init(&config, 3).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path();
    std::fs::write(path.join("config.json"), json.to_string()).unwrap();
    let (mut stored, mut dense) = (Vec::new(), Parameters::new());
    let mut store = |name: String, array: &Array| {
        let bytes: Vec<u8> = match array.dtype() {
            Dtype::Uint32 => array.as_slice::<u32>().iter().flat_map(|x| x.to_le_bytes()).collect(),
            _ => array.as_slice::<f32>().iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        let shape: Vec<usize> = array.shape().iter().map(|&size| size as usize).collect();
        stored.push((name, array.dtype() == Dtype::Uint32, shape, bytes));
    };
    for (name, array) in &random {
        let prefix = name.trim_end_matches(".weight");
        if array.ndim() < 2 || prefix.ends_with("0.mlp.down_proj") {
            store(name.clone(), array);
            dense.insert(name.clone(), array.clone());
            continue;
        }
        let bits = if prefix.ends_with("1.mlp.down_proj") { 8 } else { 4 };
        let scheme = Scheme::new(32, bits, Mode::Affine).unwrap();
        let codes = Quantized::quantize(array, scheme).unwrap();
        dense.insert(name.clone(), codes.dequantize(Dtype::Float32).unwrap());
        if name.contains("k_proj") || name.contains("v_proj") || name.contains("up_proj") {
            continue;
        }
        // Weights that are stored in one matrix are quantized as one: rows do not depend on each other.
        let others: &[&str] = match () {
            () if name.contains("q_proj") => &["k_proj", "v_proj"],
            () if name.contains("gate_proj") => &["up_proj"],
            () => &[],
        };
        let (own, whole) = match others.len() {
            2 => ("q_proj", "qkv_proj"),
            1 => ("gate_proj", "gate_up_proj"),
            _ => ("", ""),
        };
        let mut all = vec![array.clone()];
        all.extend(others.iter().map(|other| random[&name.replace(own, other)].clone()));
        let codes = Quantized::quantize(&concatenate(&all, 0).unwrap(), scheme).unwrap();
        let prefix = prefix.replace(own, whole);
        store(format!("{prefix}.weight"), &codes.weight);
        store(format!("{prefix}.scales"), &codes.scales);
        store(format!("{prefix}.biases"), codes.biases.as_ref().unwrap());
    }
    let write = |skip: &str| {
        let tensors =
            stored.iter().filter(|(name, ..)| name != skip).map(|(name, words, shape, bytes)| {
                let dtype = if *words { safetensors::Dtype::U32 } else { safetensors::Dtype::F32 };
                (name.clone(), TensorView::new(dtype, shape.clone(), bytes).unwrap())
            });
        serialize_to_file(tensors, None, &path.join("model.safetensors")).unwrap();
    };
    write("");
    let tokens = Golden::open("phi3").tokens();
    let logits = |llama: &Llama| {
        let wanted = Wanted { logits: true, ..Wanted::default() };
        llama.trace(&tokens, None, wanted).unwrap().logits.unwrap()
    };
    let expected = logits(&Llama::from_parameters(&config, &dense, Backend::PLAIN).unwrap());
    for backend in [Backend::PLAIN, Backend::CPU] {
        let llama = Llama::open(path, Dtype::Float32, backend).unwrap();
        assert_close("codes", &logits(&llama), &expected, 1e-5);
        assert!(llama.weight_bytes() < 2 * 4 * config.parameters() as usize / 5);
    }
    let summary = mlx_llamba_teacher::TeacherSummary::of(path).unwrap();
    assert_eq!(summary.dtypes.keys().collect::<Vec<_>>(), ["4 bits", "8 bits", "F32"]);
    assert_eq!(summary.dtypes.values().sum::<u64>(), config.parameters());
    for (skip, part) in [
        ("model.layers.0.mlp.gate_up_proj.scales", "gate_up_proj.weight"),
        ("model.layers.1.self_attn.o_proj.biases", "o_proj.biases is missing"),
    ] {
        write(skip);
        let error = Llama::open(path, Dtype::Float32, Backend::PLAIN).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn half_precision_is_near() {
    let golden = Golden::open("plain");
    for dtype in [Dtype::Bfloat16, Dtype::Float16] {
        let llama = Llama::open(fixture("plain"), dtype, Backend::PLAIN).unwrap();
        let trace = llama.trace(&golden.tokens(), None, ALL).unwrap();
        assert_eq!(trace.hidden[1].dtype(), dtype);
        assert_eq!(trace.attention[1].dtype(), Dtype::Float32);
        let logits = trace.logits.unwrap();
        assert_eq!(logits.dtype(), Dtype::Float32);
        // Measured: 0.036 and 0.0025.
        let tolerance = if dtype == Dtype::Bfloat16 { 0.07 } else { 0.005 };
        assert_close(&format!("{dtype:?}"), &logits, &golden.array("whole.logits"), tolerance);
    }
}
