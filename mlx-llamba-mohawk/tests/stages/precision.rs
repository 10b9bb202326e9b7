//! Products in bfloat16 with parameters in float32.

use mlx_llamba::mlx::{Dtype, floats};
use mlx_llamba_mohawk::stages::{Alignment, Distillation, NextToken, Orientation};
use mlx_llamba_mohawk::{Architecture, Objective, Parameters};

use crate::support::{Golden, gradients, student, teacher};

/// Compares an objective in bfloat16 with the same in float32.
fn check<O: Objective>(what: &str, [exact, rounded]: [&O; 2], part: usize, all: &Parameters) {
    let batch = Golden::open("plain").batch("long");
    let names = exact.trains(part);
    let (loss, expected) = gradients(exact, part, &names, all, &batch);
    let (found_loss, found) = gradients(rounded, part, &names, all, &batch);
    assert!(loss != found_loss && (found_loss / loss - 1.0).abs() < 1e-2, "{what}: {found_loss}");
    let (mut along, mut lengths) = (0.0, [0.0; 2]);
    for (name, expected) in &expected {
        assert_eq!(found[name].dtype(), Dtype::Float32, "{what}: {name}");
        let (found, expected) = (floats(&found[name]).unwrap(), floats(expected).unwrap());
        for (f, e) in found.iter().zip(&expected).map(|(f, e)| (f64::from(*f), f64::from(*e))) {
            along += f * e;
            lengths[0] += f * f;
            lengths[1] += e * e;
        }
    }
    // Distillation's is 0.998: its gradient is a difference of probabilities that are nearly the same.
    let cosine = along / (lengths[0] * lengths[1]).sqrt();
    assert!((0.99..1.0 - 1e-12).contains(&cosine), "{what}: {cosine}");
}

#[test]
fn bfloat16_changes_gradients_little_and_they_stay_in_float32() {
    let (teacher, (config, parameters)) = (teacher("plain"), student("plain"));
    let both = [Dtype::Float32, Dtype::Bfloat16];
    let stage = Orientation::new(teacher.clone(), config.clone()).unwrap();
    let [a, b] = both.map(|dtype| stage.clone().products(dtype));
    check("orientation", [&a, &b], 1, &parameters);
    let stage = Alignment::new(teacher.clone(), config.clone()).mlp(true);
    let [a, b] = both.map(|dtype| stage.clone().products(dtype));
    check("alignment", [&a, &b], 1, &parameters);
    for recompute in [false, true] {
        let stage = Distillation::new(teacher.clone(), config.clone()).next_weight(0.3);
        let [a, b] = both.map(|dtype| stage.clone().recompute(recompute).products(dtype));
        check("distillation", [&a, &b], 0, &parameters);
    }
    let llama = (Architecture::Llama(teacher.config().clone()), teacher.parameters().unwrap());
    for (architecture, parameters) in [llama, (Architecture::Llamba(config), parameters)] {
        let [a, b] = both.map(|dtype| NextToken::new(architecture.clone()).products(dtype));
        check("next token", [&a, &b], 0, &parameters);
    }
}
