//! Logits, hidden states and attention against PyTorch in float64.

use mlx_llamba::files::TokenizerFiles;
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba_teacher::{Llama, LlamaConfig, Wanted, Window, save};
use mlx_rs::ops::stack;
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
