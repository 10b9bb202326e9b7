//! Calibrated initial values against plain loops in float64.

use mlx_llamba::mlx::floats;
use mlx_llamba_mohawk::student::{self, Fit, Init, Shape};
use mlx_llamba_mohawk::{Batch, Parameters};
use mlx_llamba_teacher::{Llama, Wanted};
use mlx_rs::Array;

use crate::support::{Golden, teacher};

const HALF_LIVES: [f64; 9] = [1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 192.0, 1e4];

fn wide(array: &Array) -> Vec<f64> {
    floats(array).unwrap().into_iter().map(f64::from).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `W u + bias` of the rows of one head.
fn project(theirs: &Parameters, name: &str, head: usize, k: usize, u: &[f64]) -> Vec<f64> {
    let weight = wide(&theirs[&format!("{name}.weight")]);
    let bias = theirs.get(&format!("{name}.bias")).map(wide);
    (head * k..(head + 1) * k)
        .map(|row| {
            dot(&weight[row * u.len()..][..u.len()], u) + bias.as_ref().map_or(0.0, |b| b[row])
        })
        .collect()
}

fn turned(x: &[f64], position: usize, base: f64) -> Vec<f64> {
    let k = x.len();
    let angle = |i: usize| position as f64 * base.powf(-2.0 * i as f64 / k as f64);
    let mut y = vec![0.0; k];
    for i in 0..k / 2 {
        let (sin, cos) = angle(i).sin_cos();
        y[i] = x[i] * cos - x[i + k / 2] * sin;
        y[i + k / 2] = x[i + k / 2] * cos + x[i] * sin;
    }
    y
}

/// The input of layer `layer` after its norm, by row and token.
fn inputs(llama: &Llama, theirs: &Parameters, batch: &Batch, layer: usize) -> Vec<Vec<Vec<f64>>> {
    let wanted = Wanted { hidden: true, ..Wanted::default() };
    let hidden = llama.trace(&batch.tokens, batch.starts.as_ref(), wanted).unwrap().hidden;
    let d = llama.config().hidden_size;
    let (x, l) = (wide(&hidden[layer]), batch.tokens.dim(1) as usize);
    let norm = wide(&theirs[&format!("model.layers.{layer}.input_layernorm.weight")]);
    let token = |x: &[f64]| {
        let size = (dot(x, x) / d as f64 + 1e-5).sqrt();
        x.iter().zip(&norm).map(|(x, w)| x / size * w).collect()
    };
    x.chunks(l * d).map(|row| row.chunks(d).map(token).collect()).collect()
}

/// The fit of one head, and its residual and the residual at the other half-lives.
fn expected(llama: &Llama, batch: &Batch, layer: usize, head: usize) -> (Fit, Vec<f64>) {
    let theirs = llama.parameters().unwrap();
    let config = llama.config();
    let (k, base) = (config.head_dim, config.rope_theta);
    let group = head / (config.num_attention_heads / config.num_key_value_heads);
    let l = batch.tokens.dim(1) as usize;
    let starts =
        batch.starts.as_ref().map(|starts| wide(&starts.as_dtype(mlx_rs::Dtype::Float32).unwrap()));
    let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
    // Rows of the least-squares problem: y, x and z for each half-life.
    let (mut ys, mut xs) = (Vec::new(), Vec::new());
    let mut zs = vec![Vec::new(); HALF_LIVES.len()];
    for (row, u) in inputs(llama, &theirs, batch, layer).iter().enumerate() {
        let of = |part: &str, head: usize| -> Vec<Vec<f64>> {
            u.iter().map(|u| project(&theirs, &name(part), head, k, u)).collect()
        };
        let (q, key, v) = (of("q_proj", head), of("k_proj", group), of("v_proj", group));
        let mut document = 0;
        for t in 0..l {
            if starts.as_ref().is_some_and(|starts| starts[row * l + t] != 0.0) {
                document = t;
            }
            let score = |s: usize| {
                dot(&turned(&q[t], t, base), &turned(&key[s], s, base)) / (k as f64).sqrt()
            };
            let weights: Vec<f64> = (document..=t).map(|s| score(s).exp()).collect();
            let total: f64 = weights.iter().sum();
            if t == document {
                continue;
            }
            let seen = |weight: &dyn Fn(usize) -> f64| -> Vec<f64> {
                (0..k).map(|i| (document + 1..=t).map(|s| weight(s) * v[s][i]).sum()).collect()
            };
            ys.extend(seen(&|s| weights[s - document] / total));
            xs.extend(v[t].clone());
            for (z, half_life) in zs.iter_mut().zip(HALF_LIVES) {
                z.extend(seen(&|s| dot(&q[t], &key[s]) * 0.5f64.powf((t - s) as f64 / half_life)));
            }
        }
    }
    let mut fits = Vec::new();
    for (z, half_life) in zs.iter().zip(HALF_LIVES) {
        // Gram-Schmidt, not the normal equations.
        let along = dot(z, &xs) / dot(&xs, &xs);
        let rest: Vec<f64> = z.iter().zip(&xs).map(|(z, x)| z - along * x).collect();
        let factor = dot(&rest, &ys) / dot(&rest, &rest);
        let skip = dot(&xs, &ys) / dot(&xs, &xs) - factor * along;
        let error = ys.iter().zip(z).zip(&xs).map(|((y, z), x)| y - factor * z - skip * x);
        let explained = 1.0 - error.map(|e| e * e).sum::<f64>() / dot(&ys, &ys);
        fits.push(Fit { factor, skip, half_life, explained });
    }
    let best = *fits.iter().max_by(|a, b| a.explained.total_cmp(&b.explained)).unwrap();
    (best, fits.iter().map(|fit| fit.explained).collect())
}

fn calibrated(
    variant: &str,
    batch: &Batch,
) -> (Llama, mlx_llamba::Config, Parameters, Vec<Vec<Fit>>) {
    let llama = teacher(variant);
    let config = student::config(llama.config(), &Shape::default()).unwrap();
    let init = Init::default().copy_attention(true).scale(1.0);
    let theirs = llama.parameters().unwrap();
    let mut made = student::init(llama.config(), &theirs, &config, &init).unwrap();
    let fits = student::calibrate(&llama, &config, &mut made, batch).unwrap();
    (llama, config, made, fits)
}

#[test]
fn fits_are_those_of_plain_loops() {
    for (variant, name) in [("plain", "long"), ("plain", "short"), ("biases", "long")] {
        let batch = Golden::open(variant).batch(name);
        let (llama, _, _, fits) = calibrated(variant, &batch);
        assert_eq!((fits.len(), fits[0].len()), (2, 4));
        for (layer, heads) in fits.iter().enumerate() {
            for (head, found) in heads.iter().enumerate() {
                let (best, shares) = expected(&llama, &batch, layer, head);
                let place = format!("{variant} {name} {layer} {head}: {found:?}, not {best:?}");
                // Half-lives much longer than a document are hard to tell apart.
                let share = HALF_LIVES.iter().position(|&t| t == found.half_life);
                assert!((shares[share.unwrap()] - best.explained).abs() < 1e-5, "{place}");
                assert!((found.explained - best.explained).abs() < 1e-4, "{place}");
                if found.half_life == best.half_life {
                    assert!((found.factor / best.factor - 1.0).abs() < 1e-3, "{place}");
                    assert!((found.skip - best.skip).abs() < 1e-4, "{place}");
                }
            }
        }
    }
}

#[test]
fn they_are_written_into_the_parameters() {
    for variant in ["plain", "biases"] {
        let batch = Golden::open(variant).batch("long");
        let (llama, config, made, fits) = calibrated(variant, &batch);
        let (theirs, dims) = (llama.parameters().unwrap(), config.dims());
        let (h, k, d) = (dims.h, dims.p, config.d_model);
        let group = h / llama.config().num_key_value_heads;
        let (bias, layer) = (variant == "biases", 1);
        let prefix = format!("backbone.layers.{layer}.mixer");
        let of = |part: &str| wide(&made[&format!("{prefix}.{part}")]);
        let own = |name: &str, part: &str| {
            theirs.get(&format!("model.layers.{layer}.self_attn.{name}.{part}")).map(wide)
        };
        let near = |found: &[f64], wanted: &[f64], what: &str| {
            assert_eq!(found.len(), wanted.len(), "{what}");
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-5 * (1.0 + wanted.abs()), "{variant} {what}");
            }
        };
        let in_proj = of("in_proj.weight");
        for part in ["weight", "bias"].into_iter().take(1 + usize::from(bias)) {
            let columns = if part == "bias" { 1 } else { d };
            let ours = of(&format!("in_proj.{part}"));
            let rows = |from: usize, scale: f64, theirs: &[f64], of_head: usize, what: &str| {
                let wanted: Vec<f64> = theirs[of_head * k * columns..][..k * columns]
                    .iter()
                    .map(|x| x * scale)
                    .collect();
                near(&ours[from * k * columns..][..k * columns], &wanted, what);
            };
            for (head, fit) in fits[layer].iter().enumerate() {
                let root = fit.factor.abs().sqrt();
                rows(head, 1.0, &own("v_proj", part).unwrap(), head / group, "x");
                rows(h + head, root, &own("k_proj", part).unwrap(), head / group, "B");
                let root = root.copysign(fit.factor);
                rows(2 * h + head, root, &own("q_proj", part).unwrap(), head, "C");
            }
        }
        let skips: Vec<f64> = fits[layer].iter().map(|fit| fit.skip).collect();
        near(&of("D"), &skips, "D");

        let A_log: Vec<f64> =
            fits[layer].iter().map(|fit| (2f64.powf(1.0 / fit.half_life) - 1.0).ln()).collect();
        let decays = &in_proj[in_proj.len() - h * d..];
        if bias {
            assert!(decays.iter().all(|&x| x == 0.0));
            let bias = of("in_proj.bias");
            near(&bias[bias.len() - h..], &A_log, "A_log");
            continue;
        }
        // Each row is A_log m with (E[u u^T] + r I) m = E[u], r = 1e-3 tr(E[u u^T]) / d.
        let rows = inputs(&llama, &theirs, &batch, layer);
        let u: Vec<&Vec<f64>> = rows.iter().flatten().collect();
        let mean = |f: &dyn Fn(&[f64]) -> f64| u.iter().map(|u| f(u)).sum::<f64>() / u.len() as f64;
        let ridge = 1e-3 * mean(&|u| dot(u, u)) / d as f64;
        for (row, A_log) in decays.chunks(d).zip(A_log) {
            let m: Vec<f64> = row.iter().map(|x| x / A_log).collect();
            for j in 0..d {
                let left = mean(&|u| u[j] * dot(u, &m)) + ridge * m[j];
                let right = mean(&|u| u[j]);
                assert!((left - right).abs() < 1e-4, "{left}, not {right}");
            }
        }
    }
}

#[test]
fn one_token_texts_leave_the_copy_trainable() {
    let tokens = Array::from_slice(&[3u32, 4], &[2, 1]);
    let batch = Batch { next: tokens.clone(), tokens, starts: None, learned: None };
    let (_, _, made, fits) = calibrated("plain", &batch);
    assert!(fits.iter().flatten().all(|fit| fit.factor.is_finite() && fit.factor != 0.0));
    for (name, array) in &made {
        assert!(floats(array).unwrap().iter().all(|x| x.is_finite()), "{name}");
    }
}
