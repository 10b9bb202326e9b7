//! Losses and the gradients of every parameter beside PyTorch's in float64 (see `make.py`).

use mlx_llamba::Config;
use mlx_llamba::mlx::floats;
use mlx_llamba_mohawk::stages::{Alignment, Compared, Distillation, NextToken, Orientation};
use mlx_llamba_mohawk::{Architecture, Batch, Objective, Parameters};
use mlx_rs::Array;

use crate::support::{Golden, error, gradients, student, teacher};

/// Largest error of a loss relative to it, and of a gradient relative to its largest value.
/// Float32 and sums over 150 tokens: see the table that `MEASURE=1` prints.
const TOLERANCE: (f64, f64) = (1e-5, 2e-5);

struct Case<'a> {
    golden: &'a Golden,
    parameters: &'a Parameters,
    batch: &'a str,
}

impl Case<'_> {
    /// Compares a part's loss, and its gradients by everything that it may depend on.
    fn check<O: Objective>(&self, loss: &str, objective: &O, part: usize) {
        let Self { golden, parameters, batch } = *self;
        let name = format!("{batch}.{loss}");
        let Some(expected) = golden.get(&name) else { return };
        let all: Vec<String> = parameters.keys().cloned().collect();
        let (value, gradients) = gradients(objective, part, &all, parameters, &golden.batch(batch));
        let expected = f64::from(floats(&expected).unwrap()[0]);
        let off = (value - expected).abs() / expected.abs();
        assert!(off <= TOLERANCE.0, "{name} is {value} instead of {expected}");
        let (mut worst, mut at) = (0.0, String::new());
        for (parameter, gradient) in gradients {
            let name = format!("{name}.{parameter}");
            let found = match golden.get(&name) {
                Some(expected) => error(&gradient, &expected, 1e-3),
                None => error(&gradient, &Array::zeros::<f32>(gradient.shape()).unwrap(), 1e-3),
            };
            assert!(found <= TOLERANCE.1, "the gradient {name} is off by {found}");
            if found > worst {
                (worst, at) = (found, parameter);
            }
        }
        if std::env::var_os("MEASURE").is_some() {
            println!("{name:28} loss {off:.1e} gradients {worst:.1e} at {at}");
        }
    }
}

fn with_students(check: impl Fn(&Case<'_>, &str, &Config)) {
    for (variant, batches) in [("plain", &["short", "long"][..]), ("biases", &["long"])] {
        let (golden, (config, parameters)) = (Golden::open(variant), student(variant));
        for batch in batches {
            check(&Case { golden: &golden, parameters: &parameters, batch }, variant, &config);
        }
    }
}

#[test]
fn orientation() {
    with_students(|case, variant, config| {
        let stage =
            Orientation::new(teacher(variant), config.clone()).unwrap().compared(Compared::Matrix);
        assert_eq!(stage.parts(), 2);
        (0..2).for_each(|part| case.check(&format!("orientation.{part}"), &stage, part));
    });
}

#[test]
fn alignment() {
    with_students(|case, variant, config| {
        let stage = Alignment::new(teacher(variant), config.clone());
        assert_eq!(stage.parts(), 2);
        (0..2).for_each(|part| case.check(&format!("alignment.{part}"), &stage, part));
    });
}

#[test]
fn distillation() {
    with_students(|case, variant, config| {
        let stage = Distillation::new(teacher(variant), config.clone());
        case.check("distillation", &stage, 0);
        case.check("mixed", &stage.next_weight(0.3).temperature(2.0), 0);
    });
}

#[test]
fn next_token() {
    with_students(|case, variant, config| {
        let stage = NextToken::new(Architecture::Llamba(config.clone()));
        case.check("next_token", &stage, 0);
        let teacher = teacher(variant);
        let parameters = &teacher.parameters().unwrap();
        let case = Case { parameters, ..*case };
        let stage = NextToken::new(Architecture::Llama(teacher.config().clone()));
        case.check("llama_next_token", &stage, 0);
    });
}

#[test]
fn parts_train_all_that_their_losses_depend_on() {
    let (config, parameters) = student("plain");
    let golden = Golden::open("plain");
    let teacher = teacher("plain");
    let all: Vec<String> = parameters.keys().cloned().collect();
    let depends = |loss: &str, part: usize| -> Vec<String> {
        let name = |name: &&String| golden.get(&format!("long.{loss}.{part}.{name}")).is_some();
        all.iter().filter(name).cloned().collect()
    };
    let with = Orientation::new(teacher.clone(), config.clone()).unwrap().norms(true);
    let without = Orientation::new(teacher.clone(), config.clone()).unwrap();
    for part in 0..2 {
        assert_eq!(with.trains(part), depends("orientation", part));
        let expected = depends("orientation", part).into_iter();
        let expected: Vec<String> = expected.filter(|name| !name.contains("norm")).collect();
        assert_eq!(without.trains(part), expected);
    }
    let with = Alignment::new(teacher.clone(), config.clone()).norms(true).mlp(true);
    let without = Alignment::new(teacher.clone(), config.clone());
    for part in 0..2 {
        assert_eq!(with.trains(part), depends("alignment", part));
        let expected = depends("alignment", part).into_iter();
        let expected: Vec<String> = expected.filter(|name| name.contains("mixer")).collect();
        assert_eq!(without.trains(part), expected);
    }
    assert_eq!(Distillation::new(teacher, config.clone()).trains(0), all);
    assert_eq!(NextToken::new(Architecture::Llamba(config)).trains(0), all);
    assert!(with.trains(2).is_empty());
}

#[test]
fn losses_of_a_batch_add_up() {
    let (config, parameters) = student("plain");
    let golden = Golden::open("plain");
    let batch: Batch = golden.batch("long");
    let stage = Distillation::new(teacher("plain"), config).next_weight(0.25);
    let targets = stage.targets(&batch).unwrap();
    let losses = stage.losses(&parameters, &batch, &targets).unwrap();
    let value = |array: &Array| f64::from(floats(array).unwrap()[0]);
    let of = |name: &str| value(&golden.get(&format!("long.{name}")).unwrap());
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-5 * b.abs(), "{a} {b}");
    near(value(&losses.kl), of("distillation"));
    near(value(&losses.next_token), of("next_token"));
    near(value(&losses.mixed), 0.75 * of("distillation") + 0.25 * of("next_token"));
    let entropy = value(&losses.cross_entropy) - value(&losses.kl);
    assert!(entropy > 0.1 && entropy < 13f64.ln(), "{entropy}");
}
