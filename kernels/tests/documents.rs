//! Sequences of several documents: the mixer and its matrix, compared with the float64 oracle. No
//! bit of a document depends on another one.

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

mod support;

use mlx_llamba_kernels::{Backend, CHUNK, MixerInput};
use mlx_rs::{Array, Dtype};
use support::{Case, Data, Values, array, assert_close, check, documents, in_pieces, on, weights};

/// Largest error relative to the largest value; see `mixer.rs`.
const TOLERANCE: f64 = 4e-6;

#[test]
fn the_list_equals_the_oracle() {
    for case in documents() {
        let data = Data::new(&case);
        for backend in [Backend::PLAIN, Backend::CPU] {
            check(&case, &on(backend, &case, &data), &data, TOLERANCE);
        }
    }
}

#[test]
fn every_cut_equals_the_oracle() {
    let starts = [(0, 2), (0, 7), (1, 0), (1, 5), (1, 6)];
    let case = Case::new([6, 3, 5, 7, 4], 2, 9).starts(&starts);
    let data = Data::new(&case);
    for cut in 1..9 {
        check(&case, &in_pieces(Backend::PLAIN, &case, &data, &[cut]), &data, TOLERANCE);
    }
    let every: Vec<usize> = (1..9).collect();
    check(&case, &in_pieces(Backend::PLAIN, &case, &data, &every), &data, TOLERANCE);
}

#[test]
fn no_bit_of_a_document_depends_on_the_one_before() {
    for start in [1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 100] {
        let case = Case::new([6, 3, 5, 7, 4], 1, 2 * CHUNK + 5).starts(&[(0, start)]);
        let (dims, width) = (case.dims, case.dims.in_proj_dim());
        let data = Data::new(&case);
        let mut other = Data::new(&case);
        let values = Values(5).take(start * width, 50.0, Dtype::Float32);
        other.rows[..start * width].copy_from_slice(&values);
        let mut values = Values(6);
        for state in &mut other.states {
            state.conv = values.take(state.conv.len(), 50.0, Dtype::Float32);
            state.ssm = values.take(state.ssm.len(), 50.0, Dtype::Float32);
        }
        let [found, other] = [data, other].map(|data| on(Backend::PLAIN, &case, &data));
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let from = start * dims.d_inner();
        assert!(bits(&found.y[..from]) != bits(&other.y[..from]));
        assert!(bits(&found.y[from..]) == bits(&other.y[from..]), "y with a start at {start}");
        assert!(bits(&found.conv) == bits(&other.conv), "conv state with a start at {start}");
        assert!(bits(&found.ssm) == bits(&other.ssm), "ssm state with a start at {start}");
    }
}

/// The matrix times x equals the oracle's output with an open gate and a state of zeros.
#[test]
fn the_matrix_does_what_the_mixer_does() {
    let cases = [
        Case::new([6, 3, 5, 7, 4], 2, 9),
        Case::new([6, 3, 5, 7, 4], 2, 9).starts(&[(0, 3), (1, 0), (1, 8)]),
        Case { split_A_log: true, ..Case::new([4, 2, 3, 6, 3], 1, CHUNK + 20) }
            .starts(&[(0, CHUNK), (0, CHUNK + 1)]),
    ];
    for case in cases {
        let (dims, b, l) = (case.dims, case.lengths.len(), case.l);
        let (d_inner, conv_dim, width) = (dims.d_inner(), dims.conv_dim(), dims.in_proj_dim());
        let mut data = Data::new(&case);
        for state in &mut data.states {
            state.conv.fill(0.0);
            state.ssm.fill(0.0);
        }
        // silu(1.278464542761) = 1.
        data.weights.z_bias.fill(1.278_464_542_761);
        for row in data.rows.chunks_exact_mut(width) {
            row[conv_dim..conv_dim + d_inner].fill(0.0);
        }
        data.recompute(&case);

        let rows = array(Dtype::Float32, &[b, l, width], &data.rows);
        let flags = case.start_flags();
        let starts = flags.map(|flags| Array::from_slice(&flags, &[b as i32, l as i32]));
        let input = MixerInput { starts: starts.as_ref(), ..MixerInput::new(&rows) };
        let T = Backend::PLAIN
            .mixing_matrix(&input, &weights(&case, &data), dims, case.activation)
            .unwrap();
        assert_eq!(T.shape(), [b, dims.h, l, l].map(|size| size as i32));
        let T = support::values(&T);
        let x = convolved(&case, &data);
        for (row, expected) in data.y.iter().enumerate() {
            let mut found = vec![0.0; l * d_inner];
            for i in 0..dims.h {
                for t in 0..l {
                    for s in 0..l {
                        let T = T[((row * dims.h + i) * l + t) * l + s];
                        assert!(s <= t || T == 0.0);
                        for j in 0..dims.p {
                            let channel = i * dims.p + j;
                            found[t * d_inner + channel] += T * x[row][s * d_inner + channel];
                        }
                    }
                }
            }
            let largest = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
            let what = format!("row {row} of {case:?}");
            assert_close(&what, &found, expected, TOLERANCE * largest);
        }
    }
}

/// x after the convolution (l, d_inner), one per sequence.
fn convolved(case: &Case, data: &Data) -> Vec<Vec<f64>> {
    let (dims, width) = (case.dims, case.dims.in_proj_dim());
    let flags = case.start_flags().unwrap_or_else(|| vec![false; case.lengths.len() * case.l]);
    let row = |i: usize| {
        let mut x = Vec::new();
        for t in 0..case.l {
            // The first token of this token's document.
            let first = (0..=t).rev().find(|&s| flags[i * case.l + s]).unwrap_or(0);
            for channel in 0..dims.d_inner() {
                let lag = |lag: usize| {
                    let weight = data.weights.conv_weight[channel * dims.k + dims.k - 1 - lag];
                    weight * data.rows[(i * case.l + t - lag) * width + channel]
                };
                let lags = (0..dims.k.min(t - first + 1)).map(lag);
                x.push(data.weights.conv_bias[channel] + lags.sum::<f64>());
            }
        }
        x
    };
    (0..case.lengths.len()).map(row).collect()
}
