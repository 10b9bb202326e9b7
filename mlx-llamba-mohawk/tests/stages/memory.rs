//! Gradients that compute activations again instead of keeping them.

use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::floats;
use mlx_llamba_mohawk::stages::Distillation;
use mlx_llamba_mohawk::student::{self, Init, Shape};
use mlx_llamba_mohawk::{Batch, Objective, Parameters};
use mlx_llamba_teacher::{self as teacher, Llama, LlamaConfig};
use mlx_rs::Array;
use mlx_rs::transforms::eval;

use crate::support::gradients;

/// Deep and narrow, so that most of the memory is activations.
fn pair() -> (Distillation, Parameters) {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 24, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
    });
    let config = LlamaConfig::from_json("config.json".as_ref(), &config.to_string()).unwrap();
    let parameters = teacher::init(&config, 3).unwrap();
    let student = student::config(&config, &Shape::default()).unwrap();
    let first = student::init(&config, &parameters, &student, &Init::default()).unwrap();
    let teacher = Llama::from_parameters(&config, &parameters, Backend::PLAIN).unwrap();
    eval(first.values()).unwrap();
    (Distillation::new(teacher, student), first)
}

#[test]
fn recomputed_gradients_are_the_same_in_less_memory() {
    let (objective, parameters) = pair();
    let ids: Vec<u32> = (0..2 * 257).map(|i| (i * i * 7 + i / 5) % 24).collect();
    let rows: Vec<&[u32]> = ids.chunks(257).collect();
    let part = |from: usize| {
        let ids: Vec<u32> = rows.iter().flat_map(|row| row[from..from + 256].to_vec()).collect();
        Array::from_slice(&ids, &[2, 256])
    };
    let starts: Vec<bool> = (0..512).map(|i| i % 100 == 30).collect();
    let starts = Some(Array::from_slice(&starts, &[2, 256]));
    let batch = Batch { tokens: part(0), next: part(1), starts, learned: None };
    let names = objective.trains(0);
    let run = |objective: &Distillation| {
        mlx_rs::memory::clear_cache().unwrap();
        mlx_rs::memory::reset_peak_memory().unwrap();
        let before = mlx_rs::memory::active_memory().unwrap();
        let (loss, gradients) = gradients(objective, 0, &names, &parameters, &batch);
        eval(gradients.values()).unwrap();
        (loss, gradients, mlx_rs::memory::peak_memory().unwrap() - before)
    };
    let (loss, expected, all) = run(&objective);
    let (again, found, less) = run(&objective.clone().recompute(true));
    assert!((loss / again - 1.0).abs() < 1e-6, "{loss} {again}");
    for (name, expected) in &expected {
        let far = expected.subtract(&found[name]).unwrap().abs().unwrap().max(None).unwrap();
        let size = expected.abs().unwrap().max(None).unwrap();
        let (far, size) = (floats(&far).unwrap()[0], floats(&size).unwrap()[0]);
        assert!(far <= 1e-5 * size.max(1e-6), "{name}: {far} of {size}");
        assert!(size > 0.0 || name.contains("padding"), "{name} has no gradient");
    }
    assert!(less < all / 2, "{less} bytes, {all} without");
}
