//! Logits, hidden states and attention against PyTorch in float64.

use mlx_llamba::Backend;
use mlx_llamba_mohawk::teacher::{Llama, LlamaConfig, Wanted, Window, save};
use mlx_rs::ops::stack;

use crate::support::{Golden, VARIANTS, assert_close, fixture, open};

/// Measured: at most 3e-6 of the largest value.
const TOLERANCE: f32 = 1e-5;
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
    VARIANTS.iter().for_each(|name| check(&open(name, Backend::Plain), name));
}

#[test]
fn cpu_kernels_compute_what_the_definition_says() {
    VARIANTS.iter().for_each(|name| check(&open(name, Backend::Cpu), name));
}

#[test]
fn parameters_make_the_same_model_again() {
    for name in VARIANTS {
        let llama = open(name, Backend::Cpu);
        let parameters = llama.parameters().unwrap();
        assert_eq!(parameters.len(), llama.config().tensors().len());
        check(&Llama::from_parameters(llama.config(), &parameters, Backend::Plain).unwrap(), name);
    }
}

#[test]
fn a_saved_llama_is_the_same() {
    let temporary = tempfile::tempdir().unwrap();
    for name in VARIANTS {
        let llama = open(name, Backend::Plain);
        let output = temporary.path().join(name);
        let parameters = llama.parameters().unwrap();
        save(llama.config(), &parameters, Some(&fixture(name)), &output, false).unwrap();
        let again = Llama::open(&output, llama.dtype(), Backend::Plain).unwrap();
        assert_eq!(again.config(), llama.config());
        check(&again, name);
        assert!(save(llama.config(), &parameters, None, &output, false).is_err());
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
