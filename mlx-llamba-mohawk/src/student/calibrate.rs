//! Initial values that fit the teacher's attention: the scale, half-life and skip connection of each
//! head.
//!
//! A copy of Q and K has no softmax: without a scale its sums are tens of times attention's, and a
//! random decay forgets within a token. Both are fitted here, per head, on a few texts.

use mlx_llamba::Config;
use mlx_llamba::mlx::floats;
use mlx_rs::fast::rms_norm;
use mlx_rs::ops::{concatenate, expand_dims, split_at_indices, sum_axes, swap_axes};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use super::parameters::{get, rows};
use crate::{Batch, Parameters, Result};
use mlx_llamba_teacher::{Llama, Wanted};

/// The candidate half-lives, in tokens.
const HALF_LIVES: [f64; 9] = [1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 192.0, 1e4];

/// The smallest factor of `C B^T`: at 0 neither would have a gradient.
const LEAST: f64 = 1e-6;

/// The largest number of elements of a (b, h, l, l) array, unless a single window has more.
const PIECE: i32 = 1 << 24;

/// The ridge for the direction that carries a constant, relative to the mean square of an input.
const RIDGE: f64 = 1e-3;

/// The least-squares fit `A x ~ factor (decay o C B^T) x + skip x` of one head, where `A` is the
/// teacher's attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// The factor of `C B^T`.
    pub factor: f64,
    /// `D`.
    pub skip: f64,
    /// Tokens in which the state decays to half.
    pub half_life: f64,
    /// The share of `|A x|^2` that the fit explains.
    pub explained: f64,
}

/// Fits C, B, D and the decays of a student that begins as a copy of the teacher's attention
/// ([`Init::copy_attention`](super::Init) with scale 1) and writes them into its parameters.
/// Returns the fits, by layer and head.
///
/// The first token of each document is left out on both sides: it is attention's sink, which has most
/// of the weight and contributes little. Later tokens are compared in the contributions of the other
/// columns of attention.
///
/// The decays come from a row of in_proj that is constant on average, `A_log = ln(2^(1/t) - 1)`
/// for a half-life of `t` tokens: along `m = (E[u u^T] + r I)^-1 E[u]`, for which `m . u` is near
/// 1, or from the bias of in_proj where it has one.
///
/// # Errors
/// [`mlx_llamba::Error::Tensors`], which names a missing parameter; errors of MLX.
pub fn calibrate(
    teacher: &Llama,
    student: &Config,
    parameters: &mut Parameters,
    windows: &Batch,
) -> Result<Vec<Vec<Fit>>> {
    let mut layers: Vec<Layer> = (0..student.n_layer).map(|_| Layer::new(student)).collect();
    let wanted = Wanted { hidden: true, attention: true, logits: false };
    let (b, l) = (windows.tokens.dim(0), windows.tokens.dim(1));
    let most = (PIECE / (student.dims().h as i32 * l * l).max(1)).max(1);
    for row in (0..b).step_by(most as usize) {
        let count = most.min(b - row);
        let tokens = rows(&windows.tokens, row, count)?; // (b, l)
        let starts = windows.starts.as_ref();
        let starts = starts.map(|starts| rows(starts, row, count)).transpose()?;
        let window = Window::new(count, l, starts.as_ref())?;
        let trace = teacher.trace(&tokens, starts.as_ref(), wanted)?;
        let traced = trace.hidden.into_iter().zip(trace.attention);
        for (i, (layer, (x, attention))) in layers.iter_mut().zip(traced).enumerate() {
            layer.add(student, parameters, i, &x, &attention, &window)?;
        }
    }
    let mut fits = Vec::new();
    for (i, layer) in layers.into_iter().enumerate() {
        let heads: Vec<Fit> = layer.heads.iter().map(Sums::fit).collect();
        layer.write(student, parameters, i, &heads)?;
        fits.push(heads);
    }
    Ok(fits)
}

/// The mask of a batch of windows, as factors of 0 and 1.
struct Window {
    /// (b, 1, l, l), 1 where query t sees key s of its document, which is not the document's first.
    seen: Array,
    /// (l, l), t - s, at least 0.
    distance: Array,
    /// (b, 1, l, 1), 0 at the first token of each document.
    later: Array,
    /// (b, 1, 1, l), 0 at the first token of each document.
    not_sink: Array,
}

impl Window {
    fn new(b: i32, n: i32, starts: Option<&Array>) -> Result<Self> {
        let starts = starts.map(|starts| starts.as_dtype(Dtype::Float32)).transpose()?;
        let starts = starts.as_ref().map(floats).transpose()?.unwrap_or_default();
        let l = n as usize;
        let first = |row: usize, t: usize| {
            t == 0 || starts.get(row * l + t).is_some_and(|&start| start != 0.0)
        };
        let (mut seen, mut later) = (vec![0f32; b as usize * l * l], Vec::new());
        for (row, seen) in seen.chunks_mut(l * l).enumerate() {
            let mut document = 0;
            for t in 0..l {
                if first(row, t) {
                    document = t;
                }
                later.push(if document == t { 0f32 } else { 1.0 });
                seen[t * l..][document + 1..=t.max(document)].fill(1.0);
            }
        }
        let distance: Vec<f32> = (0..l * l).map(|i| (i / l).saturating_sub(i % l) as f32).collect();
        let later = Array::from_slice(&later, &[b, 1, n, 1]);
        Ok(Self {
            seen: Array::from_slice(&seen, &[b, 1, n, n]),
            distance: Array::from_slice(&distance, &[n, n]),
            not_sink: later.reshape(&[b, 1, 1, n])?,
            later,
        })
    }
}

/// Inner products of a head's `y = A x` with `x` and, for each half-life, `z = (decay o C B^T) x`.
#[derive(Clone, Default)]
struct Sums {
    yy: f64,
    xx: f64,
    xy: f64,
    /// `z . z`, `z . x`, `z . y`
    z: [[f64; 3]; HALF_LIVES.len()],
}

impl Sums {
    /// The best fit over the half-lives.
    fn fit(&self) -> Fit {
        let mut best =
            Fit { factor: LEAST, skip: 0.0, half_life: HALF_LIVES[0], explained: f64::MIN };
        for (half_life, [zz, zx, zy]) in HALF_LIVES.into_iter().zip(self.z) {
            // Singular if z is parallel to x, as for documents of one token.
            let determinant = zz * self.xx - zx * zx + 1e-6 * zz * self.xx;
            if determinant <= 0.0 || !determinant.is_finite() || self.yy <= 0.0 {
                continue;
            }
            let factor = (zy * self.xx - self.xy * zx) / determinant;
            let skip = (zz * self.xy - zx * zy) / determinant;
            let explained = (factor * zy + skip * self.xy) / self.yy;
            if explained > best.explained {
                best = Fit { factor, skip, half_life, explained };
            }
        }
        best.factor = best.factor.abs().max(LEAST).copysign(best.factor);
        best
    }
}

/// The sums over a layer's windows.
struct Layer {
    heads: Vec<Sums>,
    /// Sum of `u u^T` (d, d) and of `u` (d,), and their tokens.
    squares: Option<(Array, Array)>,
    tokens: f64,
}

impl Layer {
    fn new(student: &Config) -> Self {
        Self { heads: vec![Sums::default(); student.dims().h], squares: None, tokens: 0.0 }
    }

    /// Adds windows: what the layer reads `x` (b, l, d), and its attention (b, h, l, l).
    fn add(
        &mut self,
        student: &Config,
        parameters: &Parameters,
        i: usize,
        x: &Array,
        attention: &Array,
        window: &Window,
    ) -> Result<()> {
        let dims = student.dims();
        let prefix = format!("backbone.layers.{i}");
        let norm = get(parameters, &format!("{prefix}.input_layernorm.weight"))?;
        let x = x.as_dtype(Dtype::Float32)?;
        let (b, l, d) = (x.dim(0), x.dim(1), x.dim(2));
        let u = rms_norm(&x, Some(norm), 1e-5)?.reshape(&[b * l, d])?; // (b * l, d)

        let (h, p, n) = (dims.h as i32, dims.p as i32, dims.n as i32);
        let in_proj = get(parameters, &format!("{prefix}.mixer.in_proj.weight"))?;
        let conv_dim = dims.conv_dim() as i32;
        let mut xBC = u.matmul(rows(in_proj, 0, conv_dim)?.t())?; // (b * l, conv_dim)
        if student.ssm.bias {
            let bias = get(parameters, &format!("{prefix}.mixer.in_proj.bias"))?;
            xBC = xBC.add(rows(bias, 0, conv_dim)?)?;
        }
        let parts = split_at_indices(&xBC, &[h * p, h * p + h * n], 1)?;
        let head = |array: &Array, size: i32| -> Result<Array> {
            Ok(swap_axes(array.reshape(&[b, l, h, size])?, 1, 2)?) // (b, h, l, size)
        };
        let (x, B, C) = (head(&parts[0], p)?, head(&parts[1], n)?, head(&parts[2], n)?);

        let attention = attention.multiply(&window.not_sink)?; // (b, h, l, l)
        let y = attention.matmul(&x)?.multiply(&window.later)?; // (b, h, l, p)
        let own = x.multiply(&window.later)?; // (b, h, l, p)
        let scores = C.matmul(swap_axes(&B, 2, 3)?)?.multiply(&window.seen)?; // (b, h, l, l)
        let dot = |a: &Array, b: &Array| -> Result<Array> {
            Ok(sum_axes(a.multiply(b)?, &[0, 2, 3], None)?) // (h,)
        };
        let mut sums = vec![dot(&y, &y)?, dot(&own, &own)?, dot(&own, &y)?];
        for half_life in HALF_LIVES {
            let rate = Array::from_f32((-std::f64::consts::LN_2 / half_life) as f32);
            let decay = window.distance.multiply(rate)?.exp()?; // (l, l)
            let z = scores.multiply(decay)?.matmul(&x)?.multiply(&window.later)?; // (b, h, l, p)
            sums.extend([dot(&z, &z)?, dot(&z, &own)?, dot(&z, &y)?]);
        }
        let sums: Vec<Array> =
            sums.iter().map(|sum| expand_dims(sum, 1)).collect::<Result<_, _>>()?;
        let sums = concatenate(&sums, 1)?; // (h, 3 + 3 half-lives)

        let (square, sum) = (u.t().matmul(&u)?, sum_axes(&u, &[0], None)?);
        let (square, sum) = match self.squares.take() {
            None => (square, sum),
            Some((squares, sums)) => (squares.add(square)?, sums.add(sum)?),
        };
        eval([&sums, &square, &sum])?;
        self.squares = Some((square, sum));
        self.tokens += f64::from(b * l);
        let width = sums.dim(1) as usize;
        let found = floats(&sums)?;
        for (head, row) in self.heads.iter_mut().zip(found.chunks(width)) {
            let (ends, middle) = row.split_at(3);
            head.yy += f64::from(ends[0]);
            head.xx += f64::from(ends[1]);
            head.xy += f64::from(ends[2]);
            for (sum, found) in head.z.iter_mut().flatten().zip(middle) {
                *sum += f64::from(*found);
            }
        }
        Ok(())
    }

    /// Writes the fits of layer `i` into the student's parameters.
    fn write(
        self,
        student: &Config,
        parameters: &mut Parameters,
        i: usize,
        fits: &[Fit],
    ) -> Result<()> {
        let dims = student.dims();
        let mixer = format!("backbone.layers.{i}.mixer");
        let (h, n) = (dims.h, dims.n);
        let column = |values: Vec<f32>| {
            let count = values.len() as i32;
            Array::from_slice(&values, &[count])
        };
        // Rows of x, B, C and z: (h * p + 2 * h * n + d_inner,)
        let per_head = |factor: &dyn Fn(&Fit) -> f64| -> Vec<f32> {
            fits.iter().flat_map(|fit| std::iter::repeat_n(factor(fit) as f32, n)).collect()
        };
        let mut factors = vec![1f32; dims.d_inner()];
        factors.extend(per_head(&|fit| fit.factor.abs().sqrt()));
        factors.extend(per_head(&|fit| fit.factor.abs().sqrt().copysign(fit.factor)));
        factors.extend(std::iter::repeat_n(1f32, dims.d_inner()));
        let count = factors.len() as i32;
        let factors = column(factors);
        let decays: Vec<f32> =
            fits.iter().map(|fit| (2f64.powf(1.0 / fit.half_life) - 1.0).ln() as f32).collect();
        let decays = column(decays); // (h,)

        let name = format!("{mixer}.in_proj.weight");
        let scaled = {
            let in_proj = get(parameters, &name)?;
            rows(in_proj, 0, count)?.multiply(expand_dims(&factors, 1)?)? // (count, d)
        };
        let d = student.d_model as i32;
        let A_log = if student.ssm.bias {
            let bias = format!("{mixer}.in_proj.bias");
            let scaled = rows(get(parameters, &bias)?, 0, count)?.multiply(&factors)?;
            parameters.insert(bias, concatenate(&[scaled, decays], 0)?);
            Array::zeros::<f32>(&[h as i32, d])?
        } else {
            expand_dims(&decays, 1)?.multiply(self.constant()?)? // (h, d)
        };
        parameters.insert(name, concatenate(&[scaled, A_log], 0)?);
        let skips = fits.iter().map(|fit| fit.skip as f32).collect();
        parameters.insert(format!("{mixer}.D"), column(skips));
        Ok(())
    }

    /// The direction `m` (1, d) along which `m . u` is near 1 for all inputs: ridge regression, by
    /// conjugate gradients in float64.
    fn constant(self) -> Result<Array> {
        let Some((squares, sum)) = self.squares else {
            return Err(mlx_rs::error::Exception::custom("no window to calibrate on").into());
        };
        let wide = |array: &Array| -> Result<Vec<f64>> {
            Ok(floats(array)?.into_iter().map(|x| f64::from(x) / self.tokens).collect())
        };
        let (squares, mean) = (wide(&squares)?, wide(&sum)?);
        let d = mean.len();
        let ridge = RIDGE * (0..d).map(|j| squares[j * d + j]).sum::<f64>() / d as f64;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (mut m, mut rest, mut along) = (vec![0.0; d], mean.clone(), mean);
        let mut size = dot(&rest, &rest);
        let enough = 1e-14 * size;
        for _ in 0..4 * d {
            if size <= enough {
                break;
            }
            let image: Vec<f64> = squares
                .chunks(d)
                .zip(&along)
                .map(|(row, own)| dot(row, &along) + ridge * own)
                .collect();
            let step = size / dot(&along, &image);
            for (j, image) in image.into_iter().enumerate() {
                m[j] += step * along[j];
                rest[j] -= step * image;
            }
            let new = dot(&rest, &rest);
            for (along, rest) in along.iter_mut().zip(&rest) {
                *along = rest + new / size * *along;
            }
            size = new;
        }
        let m: Vec<f32> = m.into_iter().map(|x| x as f32).collect();
        Ok(Array::from_slice(&m, &[1, d as i32]))
    }
}
