//! The student that is made of a teacher.

use mlx_llamba::Checkpoint;
use mlx_llamba::files::TokenizerFiles;
use mlx_llamba::mlx::floats;
use mlx_llamba_mohawk::student::{self, Init, Shape};
use mlx_llamba_mohawk::{Error, Parameters};
use mlx_llamba_teacher::{Llama, LlamaConfig, Wanted};

use crate::support::{Golden, error, teacher};

fn made(variant: &str, shape: &Shape, init: &Init) -> (Llama, mlx_llamba::Config, Parameters) {
    let teacher = teacher(variant);
    let config = student::config(teacher.config(), shape).unwrap();
    let parameters = teacher.parameters().unwrap();
    let made = student::init(teacher.config(), &parameters, &config, init).unwrap();
    (teacher, config, made)
}

fn values(parameters: &Parameters, name: &str) -> Vec<f32> {
    floats(&parameters[name]).unwrap()
}

#[test]
fn sizes_come_from_the_teacher() {
    let (_, config, parameters) = made("plain", &Shape::default(), &Init::default());
    let dims = config.dims();
    assert_eq!([dims.h, dims.g, dims.p, dims.n, dims.k], [4, 4, 6, 6, 4]);
    assert_eq!((config.d_model, config.d_inner(), config.n_layer), (12, 24, 2));
    assert_eq!((config.vocab_size, config.padded_vocab(), &config.eos[..]), (13, 16, &[2][..]));
    let found: Vec<_> = parameters.keys().cloned().collect();
    let mut expected: Vec<_> = config.tensors().into_iter().map(|(name, _)| name).collect();
    expected.sort();
    assert_eq!(found, expected);
    for (name, shape) in config.tensors() {
        let found: Vec<usize> = parameters[&name].shape().iter().map(|&s| s as usize).collect();
        assert_eq!(found, shape, "{name}");
    }
    let (_, config, _) = made(
        "biases",
        &Shape::default().d_state(3).d_conv(2).pad_vocab_size_multiple(1).bias(false),
        &Init::default(),
    );
    assert_eq!((config.dims().n, config.dims().k, config.padded_vocab()), (3, 2, 13));
    assert!(config.ssm.bias && config.mlp.bias && config.tie_embeddings);
}

#[test]
fn what_both_have_is_copied_and_the_rest_lets_through() {
    let (teacher, config, parameters) = made("plain", &Shape::default(), &Init::default());
    let theirs = teacher.parameters().unwrap();
    for (ours, name) in [
        ("backbone.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.gate_proj.weight"),
        ("backbone.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight"),
        ("backbone.layers.1.input_layernorm.weight", "model.layers.1.input_layernorm.weight"),
        (
            "backbone.layers.0.post_attention_layernorm.weight",
            "model.layers.0.post_attention_layernorm.weight",
        ),
        ("backbone.final_layernorm.weight", "model.norm.weight"),
    ] {
        assert_eq!(values(&parameters, ours), values(&theirs, name), "{ours}");
    }
    for (ours, name) in [
        ("backbone.embedding.weight", "model.embed_tokens.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ] {
        let ours = values(&parameters, ours);
        assert_eq!(ours[..13 * 12], values(&theirs, name));
        assert!(ours[13 * 12..].iter().all(|v| *v == 0.0));
    }
    let mixer = |part: &str| values(&parameters, &format!("backbone.layers.1.mixer.{part}"));
    let dims = config.dims();
    for taps in mixer("conv1d.weight").chunks(4) {
        assert_eq!(taps, [0.0, 0.0, 0.0, 1.0]);
    }
    assert!(mixer("conv1d.bias").iter().all(|v| *v == 0.0));
    assert!(mixer("D").iter().all(|v| *v == 1.0));
    for z in mixer("z_bias") {
        assert!((z / (1.0 + (-z).exp()) - 1.0).abs() < 1e-6);
    }
    let in_proj = mixer("in_proj.weight");
    let (z, A_log) = (dims.conv_dim() * 12, (dims.conv_dim() + dims.d_inner()) * 12);
    assert!(in_proj[z..A_log].iter().all(|v| *v == 0.0));
    let bound = 1.0 / 12f32.sqrt();
    let spread = |values: &[f32], bound: f32| {
        let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(largest <= bound && largest > 0.8 * bound, "{largest} {bound}");
    };
    spread(&in_proj[..z], bound);
    spread(&in_proj[A_log..], bound);
    spread(&mixer("out_proj.weight"), 1.0 / 24f32.sqrt() / 2f32.sqrt());
    // Deterministic, and each seed and layer its own.
    let again = made("plain", &Shape::default(), &Init::default()).2;
    let other = made("plain", &Shape::default(), &Init::default().seed(1)).2;
    let name = "backbone.layers.1.mixer.in_proj.weight";
    assert_eq!(values(&again, name), in_proj);
    assert_ne!(values(&other, name), in_proj);
    assert_ne!(values(&parameters, "backbone.layers.0.mixer.in_proj.weight"), in_proj);
}

#[test]
fn heads_of_attention_go_to_their_own_heads() {
    for (variant, groups) in [("plain", 2), ("biases", 1)] {
        let init = Init::default().copy_attention(true);
        let (teacher, config, parameters) = made(variant, &Shape::default(), &init);
        let theirs = teacher.parameters().unwrap();
        let (k, d) = (6, 12);
        let scale = 6f32.powf(-0.25);
        for part in ["weight", "bias"] {
            if part == "bias" && variant == "plain" {
                continue;
            }
            let columns = if part == "bias" { 1 } else { d };
            let own =
                |name: &str| values(&theirs, &format!("model.layers.1.self_attn.{name}.{part}"));
            let (q, key, v) = (own("q_proj"), own("k_proj"), own("v_proj"));
            let ours = values(&parameters, &format!("backbone.layers.1.mixer.in_proj.{part}"));
            for head in 0..4 {
                for i in 0..k {
                    let row =
                        |values: &[f32], row: usize| values[row * columns..][..columns].to_vec();
                    let scaled =
                        |values: Vec<f32>| values.iter().map(|v| v * scale).collect::<Vec<_>>();
                    let of_group = head / (4 / groups) * k + i;
                    assert_eq!(row(&ours, head * k + i), row(&v, of_group));
                    assert_eq!(row(&ours, 24 + head * k + i), scaled(row(&key, of_group)));
                    assert_eq!(row(&ours, 48 + head * k + i), scaled(row(&q, head * k + i)));
                }
            }
        }
        assert_eq!(
            values(&parameters, "backbone.layers.1.mixer.out_proj.weight"),
            values(&theirs, "model.layers.1.self_attn.o_proj.weight")
        );
        assert_eq!(config.dims().n, k);
    }
}

#[test]
fn half_lives_are_what_was_asked_for() {
    let (teacher, config, mut parameters) = made("plain", &Shape::default(), &Init::default());
    let before = parameters.clone();
    let batch = Golden::open("plain").batch("short");
    let wanted = Wanted { hidden: true, ..Wanted::default() };
    let hidden = teacher.trace(&batch.tokens, None, wanted).unwrap().hidden;
    student::set_half_lives(&config, &mut parameters, &hidden, &[1.0, 20.0, 300.0]).unwrap();
    for (i, x) in hidden.iter().take(2).enumerate() {
        let name = format!("backbone.layers.{i}.mixer.in_proj.weight");
        let norm = &parameters[&format!("backbone.layers.{i}.input_layernorm.weight")];
        let u = mlx_rs::fast::rms_norm(x, Some(norm), 1e-5).unwrap();
        let rows = u.matmul(parameters[&name].t()).unwrap();
        let mean = floats(&mlx_rs::ops::mean_axes(&rows, &[0, 1], None).unwrap()).unwrap();
        let A_log = &mean[mean.len() - 4..];
        for (A_log, half_life) in A_log.iter().zip([1.0f32, 20.0, 300.0]) {
            let a = 1.0 / (1.0 + A_log.exp());
            assert!((a.powf(half_life) - 0.5).abs() < 1e-3, "{a} {half_life}");
        }
        // The last head, and everything before the decays, stay.
        let (found, old) = (values(&parameters, &name), values(&before, &name));
        let first = found.len() - 4 * 12;
        assert_eq!(found[..first], old[..first]);
        assert_eq!(found[first + 36..], old[first + 36..]);
        assert_ne!(found[first..first + 36], old[first..first + 36]);
    }
}

#[test]
fn a_saved_student_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    for variant in ["plain", "biases"] {
        let path = directory.path().join(variant);
        let (_, config, parameters) = made(variant, &Shape::default(), &Init::default());
        let companions = TokenizerFiles::default().with("tokenizer.json", &b"{}"[..]);
        student::save(&config, &parameters, &companions, &path, false).unwrap();
        let (found, loaded) = student::load(&path).unwrap();
        assert_eq!(found, config);
        assert_eq!(loaded.keys().collect::<Vec<_>>(), parameters.keys().collect::<Vec<_>>());
        for (name, array) in &parameters {
            assert_eq!(error(&loaded[name], array, 1e-9), 0.0, "{name}");
        }
        assert_eq!(
            Checkpoint::open(&path).unwrap().layout(),
            mlx_llamba::checkpoint::Layout::PyTorch
        );
        let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
        assert_eq!(read("tokenizer.json"), "{}");
        assert!(read("generation_config.json").contains("eos_token_id"));
        let again = student::save(&config, &parameters, &TokenizerFiles::default(), &path, false)
            .unwrap_err();
        assert!(again.to_string().contains("exists"), "{again}");
        student::save(&config, &parameters, &TokenizerFiles::default(), &path, true).unwrap();
        let mut fewer = parameters.clone();
        fewer.remove("backbone.layers.0.mixer.D");
        let error = student::save(&config, &fewer, &TokenizerFiles::default(), &path, true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("backbone.layers.0.mixer.D"), "{error}");
        student::load(&path).unwrap();
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let config = teacher("plain").config().clone();
    let refused = |config: &LlamaConfig, shape: &Shape| {
        student::config(config, shape).unwrap_err().to_string()
    };
    let odd = LlamaConfig { hidden_size: 10, ..config.clone() };
    let message = refused(&odd, &Shape::default());
    let expected = "num_attention_heads * head_dim is 24, expected a multiple of hidden_size = 10";
    assert!(message.contains(expected), "{message}");
    let message = refused(&config, &Shape::default().d_conv(0));
    assert!(message.contains("ssm_cfg.d_conv"), "{message}");

    let teacher = teacher("plain");
    let parameters = teacher.parameters().unwrap();
    let shape = Shape::default().d_state(5);
    let smaller = student::config(&config, &shape).unwrap();
    let init = Init::default().copy_attention(true);
    let error = student::init(&config, &parameters, &smaller, &init).unwrap_err();
    assert!(matches!(error, Error::NoStudent { .. }), "{error}");
    student::init(&config, &parameters, &smaller, &Init::default()).unwrap();

    let mut fewer = parameters.clone();
    fewer.remove("model.layers.1.mlp.up_proj.weight");
    let error = student::init(&config, &fewer, &smaller, &Init::default()).unwrap_err().to_string();
    assert!(error.contains("model.layers.1.mlp.up_proj.weight"), "{error}");
}
