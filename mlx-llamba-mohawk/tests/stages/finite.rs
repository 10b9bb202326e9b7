//! Gradients beside central differences along a random direction: no other program needed.

use mlx_llamba::mlx::floats;
use mlx_llamba_mohawk::stages::{Alignment, Compared, Distillation, Orientation};
use mlx_llamba_mohawk::{Objective, Parameters};
use mlx_rs::{Array, random};

use crate::support::{Golden, gradients, student, teacher};

/// Float32 leaves a difference about four digits.
const TOLERANCE: f64 = 5e-3;

fn check<O: Objective>(what: &str, objective: &O, part: usize) {
    let (golden, (_, parameters)) = (Golden::open("plain"), student("plain"));
    let batch = golden.batch("long");
    let names = objective.trains(part);
    let (_, gradients) = gradients(objective, part, &names, &parameters, &batch);
    let targets = objective.targets(&batch).unwrap();
    for seed in 0..3 {
        let mut key = random::key(seed).unwrap();
        // Half of the gradient's own direction, so that the slope is no small difference of large
        // numbers.
        let (mut directions, mut slope) = (Parameters::new(), 0.0);
        for (name, gradient) in &gradients {
            let (this, rest) = random::split(&key, 2).unwrap();
            key = rest;
            let size = floats(&gradient.square().unwrap().sum(None).unwrap()).unwrap()[0].sqrt();
            let random = random::normal::<f32>(gradient.shape(), None, None, &this).unwrap();
            let along = gradient.multiply(Array::from_f32(1.0 / size.max(1e-6))).unwrap();
            let scale = Array::from_f32((gradient.size() as f32).sqrt().recip());
            let direction = along.add(random.multiply(scale).unwrap()).unwrap();
            let part = direction.multiply(gradient).unwrap().sum(None).unwrap();
            slope += f64::from(floats(&part).unwrap()[0]);
            directions.insert(name.clone(), direction);
        }
        let at = |step: f32| {
            let mut moved = parameters.clone();
            for (name, direction) in &directions {
                let by = direction.multiply(Array::from_f32(step)).unwrap();
                moved.insert(name.clone(), parameters[name].add(by).unwrap());
            }
            let loss = objective.loss(part, &moved, &batch, &targets).unwrap();
            f64::from(floats(&loss).unwrap()[0])
        };
        let step = 1e-3;
        let found = (at(step) - at(-step)) / f64::from(2.0 * step);
        let off = (found - slope).abs() / slope.abs();
        assert!(off < TOLERANCE, "{what}, direction {seed}: {found} and {slope}");
    }
}

#[test]
fn gradients_are_slopes() {
    let (teacher, (config, _)) = (teacher("plain"), student("plain"));
    let orientation = Orientation::new(teacher.clone(), config.clone()).unwrap().norms(true);
    for compared in [Compared::Matrix, Compared::Columns] {
        check(&format!("{compared:?}"), &orientation.clone().compared(compared), 1);
    }
    let alignment = Alignment::new(teacher.clone(), config.clone()).norms(true).mlp(true);
    check("alignment", &alignment, 0);
    check("distillation", &Distillation::new(teacher, config).next_weight(0.5), 0);
}
