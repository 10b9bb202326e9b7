//! The whole list of checks.

use mlx_rs::Dtype;

use super::{Case, Check, Matrix, Ring, Step, published, ragged, rings, steps, tokens};
use crate::Dims;

/// Returns every case of every operation, for any back end and dtype.
pub fn all() -> Vec<Check> {
    let (float, half, bf16) = (Dtype::Float32, Dtype::Float16, Dtype::Bfloat16);
    let mut all = Vec::new();
    let starts = [(0, 0), (0, 63), (1, 64), (1, 99)];
    for case in
        [Case::new([6, 3, 5, 7, 4], 2, 100).starts(&starts), Case::new([9, 9, 64, 64, 4], 2, 300)]
    {
        all.push(Check::MixerGradient(case));
    }
    for case in [steps(), tokens(), ragged(), published()].concat() {
        all.extend([float, half, bf16].map(|dtype| Check::Mixer(case.clone().dtype(dtype))));
    }
    for dtype in [float, half, bf16] {
        for [rows, width] in [[1, 7], [3, 24], [170, 130], [2, 4099], [66_000, 8]] {
            all.push(Check::Swiglu { rows, width, dtype });
            all.extend([true, false].map(|residual| Check::Norm { residual, rows, width, dtype }));
        }
    }
    // Every form of the kernels, and the calls left to MLX, whose own kernels take long to compile.
    let mut matmuls = vec![(1, 64, float), (5, 64, float), (2, 32, float)];
    matmuls.extend([1, 2, 7, 8, 13, 17, 40, 64, 70].map(|rows| (rows, 64, bf16)));
    matmuls.extend([1, 16, 17, 64].map(|rows| (rows, 64, half)));
    matmuls.extend([(1, 32), (33, 32), (1, 128)].map(|(rows, group)| (rows, group, bf16)));
    for (rows, group, dtype) in matmuls {
        for [out, within] in [[40, 256], [1024, 4096], [2592, 2048]] {
            all.push(Check::Matmul { rows, matrix: Matrix::Random { out, within, group }, dtype });
        }
    }
    for (rows, group, dtype) in
        [(1, 64, bf16), (8, 32, bf16), (300, 128, bf16), (3, 64, half), (5, 64, float)]
    {
        let matrix = Matrix::Random { out: 2500, within: 2048, group };
        all.push(Check::Rows { rows, matrix, dtype });
    }
    // A small block whose matrices do not fill all blocks of threads, then those of the published models.
    let dims = |p| Dims { h: 32, g: 32, p, n: 64, k: 4 };
    let small = Dims { h: 4, g: 2, p: 64, n: 64, k: 4 };
    let sizes = [
        (512, 768, small, 32),
        (512, 768, small, 128),
        (2048, 8192, dims(64), 64),
        (4096, 14336, dims(128), 64),
    ];
    for (d, hidden, dims, group) in sizes {
        for b in [1, 3, 8] {
            all.push(Check::Blocks(Step { b, d, hidden, dims, group, dtype: bf16 }));
        }
    }
    for ring in rings() {
        let of = |dtype| Check::RingAttention(Ring { dtype, ..ring.clone() });
        all.extend([float, half, bf16].map(of));
    }
    all.extend(
        [(float, 701), (half, 8), (bf16, 49_152)]
            .map(|(dtype, vocab)| Check::Draw { vocab, dtype }),
    );
    for (rows, vocab, temperature, dtype) in
        [(3, 701, 2.0, float), (5, 33, 1.0, half), (9, 49_152, 1.0, bf16), (40, 49_152, 1.0, float)]
    {
        all.push(Check::CrossEntropy { rows, vocab, temperature, dtype });
    }
    all
}
