//! Teachers whose heads are grouped, or together wider than the model: what a copy of their
//! attention computes.

use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::{Dtype, floats};
use mlx_llamba::row_layout::RowLayout;
use mlx_llamba::{Config, Model};
use mlx_llamba_mohawk::student::{self, Init, Shape};
use mlx_llamba_mohawk::{Error, Parameters};
use mlx_llamba_teacher::{Llama, LlamaConfig, Rope, Wanted, Yarn};
use mlx_rs::{Array, random};

use crate::support::teacher;

/// Query heads, key/value heads, width of a head, width of the model.
const HEADS: [[usize; 4]; 5] =
    [[4, 2, 6, 12], [6, 2, 4, 24], [3, 1, 8, 12], [5, 5, 2, 10], [1, 1, 16, 8]];

/// A teacher of two layers whose parameters are all random.
fn random(heads: [usize; 4], bias: bool) -> (LlamaConfig, Parameters) {
    let [h, g, k, d] = heads;
    let config = LlamaConfig {
        hidden_size: d,
        num_attention_heads: h,
        num_key_value_heads: g,
        head_dim: k,
        rotary_dim: k,
        qkv_bias: bias,
        out_bias: bias,
        qk_norm: false,
        sliding_window: None,
        // No position turns anything that a float could show.
        rope: Rope::Linear { factor: 1e12 },
        rms_norm_eps: 1e-5,
        ..teacher("plain").config().clone()
    };
    let mut parameters = Parameters::new();
    for (i, (name, shape)) in config.tensors().into_iter().enumerate() {
        let shape: Vec<i32> = shape.iter().map(|&size| size as i32).collect();
        let centre = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let key = random::key(i as u64).unwrap();
        let values = random::normal::<f32>(&shape, centre, 0.4, &key).unwrap();
        parameters.insert(name, values);
    }
    (config, parameters)
}

/// The student with the teacher's attention, which forgets nothing and skips nothing.
fn copy(config: &LlamaConfig, parameters: &Parameters) -> (Config, Parameters) {
    let shape = Shape::default().bias(true);
    let student = student::config(config, &shape).unwrap();
    let init = Init::default().copy_attention(true).skip(0.0);
    let mut made = student::init(config, parameters, &student, &init).unwrap();
    for i in 0..student.n_layer {
        let mut last = |part: &str, value: f32| {
            let name = format!("backbone.layers.{i}.mixer.in_proj.{part}");
            let mut values = floats(&made[&name]).unwrap();
            let columns = if part == "bias" { 1 } else { student.d_model };
            let decays = values.len() - config.num_attention_heads * columns;
            values[decays..].fill(value);
            let array = Array::from_slice(&values, made[&name].shape());
            made.insert(name, array);
        };
        last("weight", 0.0);
        last("bias", -60.0);
    }
    (student, made)
}

/// Stage 1's matrices of layer `i`, (b, h, l, l).
fn matrix(student: &Config, parameters: &Parameters, i: usize, x: &Array) -> Array {
    let model =
        Model::from_parameters(student, parameters, Dtype::Float32, Backend::PLAIN).unwrap();
    model.mixing_matrix(i, x, RowLayout::default()).unwrap()
}

#[test]
fn the_matrix_of_a_copy_is_attention_before_the_softmax() {
    let (b, l) = (2, 7);
    for heads in HEADS {
        for bias in [false, true] {
            let (config, parameters) = random(heads, bias);
            let llama = Llama::from_parameters(&config, &parameters, Backend::PLAIN).unwrap();
            let (student, copied) = copy(&config, &parameters);
            let dims = student.dims();
            assert_eq!([dims.h, dims.g, dims.p, dims.n], [heads[0], heads[0], heads[2], heads[2]]);
            let vocab = config.vocab_size as i32;
            let key = random::key(99).unwrap();
            let tokens = random::randint::<_, u32>(0, vocab, &[b, l][..], &key).unwrap();
            let wanted = Wanted { hidden: true, attention: true, logits: false };
            let trace = llama.trace(&tokens, None, wanted).unwrap();
            for i in 0..config.num_hidden_layers {
                let T = floats(&matrix(&student, &copied, i, &trace.hidden[i])).unwrap();
                let attention = floats(&trace.attention[i]).unwrap();
                assert_eq!(T.len(), attention.len());
                let l = l as usize;
                for (row, (T, attention)) in T.chunks(l).zip(attention.chunks(l)).enumerate() {
                    let seen = row % l + 1;
                    let most = T[..seen].iter().fold(f32::MIN, |m, &x| m.max(x));
                    let sum: f32 = T[..seen].iter().map(|x| (x - most).exp()).sum();
                    for s in 0..l {
                        let found = if s < seen { (T[s] - most).exp() / sum } else { T[s] };
                        let off = (found - attention[s]).abs();
                        assert!(off < 1e-5, "{heads:?} {bias} row {row}, {s}: {T:?} {attention:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_copy_has_the_attention_factor_of_yarn() {
    let (config, parameters) = random(HEADS[0], false);
    let yarn = Yarn {
        factor: 2.0,
        original_context: 8,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor: 1.5,
    };
    let scaled = LlamaConfig { rope: Rope::Yarn(yarn), ..config.clone() };
    let x = random::normal::<f32>(&[1, 5, 12], None, None, &random::key(7).unwrap()).unwrap();
    let T = |config: &LlamaConfig| {
        let (student, copied) = copy(config, &parameters);
        floats(&matrix(&student, &copied, 1, &x)).unwrap()
    };
    let (plain, scaled) = (T(&config), T(&scaled));
    assert!(plain.iter().any(|x| x.abs() > 0.1));
    for (plain, scaled) in plain.iter().zip(&scaled) {
        assert!((scaled - 1.5 * 1.5 * plain).abs() < 1e-5 * (1.0 + scaled.abs()));
    }
}

#[test]
fn heads_that_no_llamba_has_are_refused_with_the_reason() {
    // 3 heads of 8 beside a model of 16: a mixer is a whole number of times as wide as the model.
    for heads in [[3, 3, 8, 16], [4, 1, 2, 16]] {
        let (config, _) = random(heads, false);
        let error = student::config(&config, &Shape::default()).unwrap_err();
        let inside = heads[0] * heads[2];
        let expected = format!(
            "no Llamba has the teacher's sizes: num_attention_heads * head_dim is {inside}, \
             expected a multiple of hidden_size = 16"
        );
        assert!(matches!(error, Error::NoStudent { .. }));
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}
