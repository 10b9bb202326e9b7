//! The loss of stage 1 against plain loops.

use mlx_llamba::Model;
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::{Dtype, floats};
use mlx_llamba::row_layout::RowLayout;
use mlx_llamba_mohawk::Objective;
use mlx_llamba_mohawk::stages::{Compared, Orientation};
use mlx_llamba_teacher::Wanted;
use mlx_rs::Array;

use crate::support::{Golden, student, teacher};

fn wide(array: &Array) -> Vec<f64> {
    floats(array).unwrap().into_iter().map(f64::from).collect()
}

#[test]
fn columns_weigh_as_much_as_their_values() {
    let (layer, golden) = (1, Golden::open("plain"));
    let (llama, (config, parameters), batch) =
        (teacher("plain"), student("plain"), golden.batch("long"));
    let wanted = Wanted { hidden: true, attention: true, logits: false };
    let trace = llama.trace(&batch.tokens, batch.starts.as_ref(), wanted).unwrap();
    let hidden = &trace.hidden[layer];
    let model =
        Model::from_parameters(&config, &parameters, Dtype::Float32, Backend::PLAIN).unwrap();
    let borders = RowLayout { lengths: None, starts: batch.starts.as_ref() };
    let T = wide(&model.mixing_matrix(layer, hidden, borders).unwrap());
    let A = wide(&trace.attention[layer]);
    let [b, h, l] = [0, 1, 2].map(|axis| trace.attention[layer].dim(axis) as usize);
    let (k, d) = (llama.config().head_dim, config.d_model);
    let group = h / llama.config().num_key_value_heads;
    // The values of each row, token and group, by loops.
    let theirs = llama.parameters().unwrap();
    let of = |name: &str| wide(&theirs[&format!("model.layers.{layer}.{name}.weight")]);
    let (norm, v_proj, x) = (of("input_layernorm"), of("self_attn.v_proj"), wide(hidden));
    let value = |row: usize, s: usize, head: usize, i: usize| -> f64 {
        let x = &x[(row * l + s) * d..][..d];
        let size = (x.iter().map(|x| x * x).sum::<f64>() / d as f64 + 1e-5).sqrt();
        let weights = &v_proj[(head / group * k + i) * d..][..d];
        (0..d).map(|j| x[j] / size * norm[j] * weights[j]).sum()
    };
    let (mut matrix, mut columns) = (0.0, 0.0);
    for row in 0..b {
        for head in 0..h {
            let off = |t: usize, s: usize| {
                let at = ((row * h + head) * l + t) * l + s;
                A[at] - T[at]
            };
            let values: Vec<Vec<f64>> =
                (0..l).map(|s| (0..k).map(|i| value(row, s, head, i)).collect()).collect();
            let length: Vec<f64> = values.iter().map(|v| v.iter().map(|x| x * x).sum()).collect();
            let (mut of_matrix, mut of_columns) = (0.0, 0.0);
            for t in 0..l {
                let row: Vec<f64> = (0..l).map(|s| off(t, s)).collect();
                of_matrix += row.iter().map(|x| x * x).sum::<f64>();
                of_columns += row.iter().zip(&length).map(|(x, v)| x * x * v).sum::<f64>();
            }
            matrix += of_matrix.sqrt();
            columns += of_columns.sqrt();
        }
    }
    let stage = Orientation::new(llama, config).unwrap();
    let cases = [(Compared::Matrix, matrix), (Compared::Columns, columns)];
    for (compared, expected) in cases {
        let stage = stage.clone().compared(compared);
        let targets = stage.targets(&batch).unwrap();
        let found = wide(&stage.loss(layer, &parameters, &batch, &targets).unwrap())[0];
        let expected = expected / (b * h) as f64;
        assert!((found / expected - 1.0).abs() < 1e-4, "{compared:?}: {found}, not {expected}");
    }
}
