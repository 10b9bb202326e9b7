//! The launches of `matmul_few.cu` and `matmul_many.cu`: products with matrices in codes of 4 bits.

use mlx_rs::Dtype;

use super::unsupported;
use crate::gpu::call::{float_bytes, sizes};
use crate::gpu::{
    Argument, Fusion, Language, Launch, LaunchError, MatmulCall, MatmulLaunches, Output, Source,
};
use crate::{Mode, Scheme};

/// Inputs of both kernels, in order.
///
/// | name | shape | dtype |
/// |---|---|---|
/// | x | (m, in) | the activations' |
/// | weight | (out, in / 8) | u32 |
/// | scales, biases | (out, in / group) | float |
pub const MATMUL_INPUTS: &[&str] = &["x", "weight", "scales", "biases"];

/// Inputs of the kernel for few rows: `beside` is what a [`Fusion`] takes, and any array of the
/// activations' dtype without one.
pub const FEW_INPUTS: &[&str] = &["x", "weight", "scales", "biases", "beside"];

const HEADER: &[&str] = &[
    include_str!("../../cuda/words.cuh"),
    include_str!("../../cuda/mma.cuh"),
    include_str!("../../cuda/codes.cuh"),
];

static FEW: Source = Source {
    name: "llamba_cuda_matmul_few",
    inputs: FEW_INPUTS,
    outputs: &["y"],
    language: Language::Cuda,
    header: HEADER,
    body: include_str!("../../cuda/matmul_few.cu"),
};

static MANY: Source = Source {
    name: "llamba_cuda_matmul_many",
    inputs: MATMUL_INPUTS,
    outputs: &["y"],
    language: Language::Cuda,
    header: HEADER,
    body: include_str!("../../cuda/matmul_many.cu"),
};

static SUM: Source = Source {
    name: "llamba_cuda_matmul_sum",
    inputs: &["sums"],
    outputs: &["y"],
    language: Language::Cuda,
    header: &[include_str!("../../cuda/words.cuh")],
    body: include_str!("../../cuda/matmul_sum.cu"),
};

/// Rows of x in a tile of tensor cores.
const COLUMNS: usize = 8;
/// The most rows of x that a kernel takes.
const MANY_ROWS: usize = 64;
/// Rows of W in a block of `matmul_few.cu`, and values of k in a stage.
const FEW_TILE: [usize; 2] = [16, 256];
/// The same of `matmul_many.cu`.
const MANY_TILE: [usize; 2] = [128, 128];
/// Threads of a block of `matmul_many.cu` and of `matmul_sum.cu`.
const MANY_THREADS: usize = 128;
/// Blocks of `matmul_many.cu` that fill the largest GPUs.
const ENOUGH_BLOCKS: usize = 256;

/// Returns the launches that multiply by a quantized matrix on GPUs whose blocks may have `shared_bytes`
/// of shared memory.
///
/// # Errors
/// [`LaunchError::Unsupported`] for more than 64 rows (in float32: 5), other schemes than affine codes of
/// 4 bits, other dtypes than float32, float16 and bfloat16, and for sizes that do not fill a stage.
pub fn matmul_launch(
    call: &MatmulCall,
    shared_bytes: usize,
) -> Result<MatmulLaunches, LaunchError> {
    let MatmulCall { m, columns, scheme, .. } = *call;
    let Scheme { bits, mode, group_size } = scheme;
    if shared_bytes == 0 {
        return unsupported("tensor cores of this GPU do not take bfloat16".into());
    }
    if bits != 4 || mode != Mode::Affine {
        return unsupported(format!("{bits} bits of mode {mode} are multiplied by MLX"));
    }
    if call.rows == 0
        || m == 0
        || m > MANY_ROWS
        || columns == 0
        || !columns.is_multiple_of(2 * group_size)
    {
        return unsupported(format!("{m} rows of {columns} are multiplied by MLX"));
    }
    let parts = if float_bytes(call.dtype)? == 4 { 3 } else { 1 };
    if m * parts <= 2 * COLUMNS {
        Ok((few(call, m * parts, Fusion::None)?, None))
    } else {
        many(call, shared_bytes)
    }
}

/// Returns the launch that computes a product together with the operations beside it, of (m, in) or
/// (m, 1, in), to (m, 1, out).
///
/// # Errors
/// [`LaunchError::Unsupported`] for more than 8 rows, other dtypes than bfloat16 (the product of x and a
/// norm's weight may be above the largest float16), and as [`matmul_launch`].
pub fn fused_matmul_launch(
    call: &MatmulCall,
    fusion: Fusion,
    shared_bytes: usize,
) -> Result<Launch, LaunchError> {
    let MatmulCall { m, rows, dtype, scales, .. } = *call;
    if m > COLUMNS || dtype != Dtype::Bfloat16 || scales != dtype {
        return unsupported(format!("{m} rows of {dtype:?} are computed one by one"));
    }
    if matches!(fusion, Fusion::NormSwiglu { .. }) && !rows.is_multiple_of(FEW_TILE[0]) {
        return unsupported(format!("half of {rows} rows does not fill blocks"));
    }
    matmul_launch(call, shared_bytes)?;
    let mut launch = few(call, m, fusion)?;
    let [output] = &mut launch.outputs[..] else { return unsupported("several outputs".into()) };
    let width = if matches!(fusion, Fusion::NormSwiglu { .. }) { rows / 2 } else { rows };
    *output = Output::new(&[m, 1, width], dtype);
    Ok(launch)
}

/// The launch for few rows, which are `summands` rows of tensor cores.
fn few(call: &MatmulCall, summands: usize, fusion: Fusion) -> Result<Launch, LaunchError> {
    let [rows, depth] = FEW_TILE;
    let MatmulCall { m, rows: out, columns: within, scheme, scales, .. } = *call;
    if !within.is_multiple_of(depth) {
        return unsupported(format!("rows of {within} are no multiple of {depth}"));
    }
    let (blocks, columns) = (out.div_ceil(rows), summands.div_ceil(COLUMNS));
    let (norm, epsilon) = match fusion {
        Fusion::Norm { epsilon } | Fusion::NormSwiglu { epsilon } => (true, epsilon),
        Fusion::None | Fusion::Residual => (false, 0.0),
    };
    // Two variants only, since each is compiled separately.
    let held = if norm && m > 1 { COLUMNS } else { 1 };
    // The fewer blocks, the more warps are needed to have enough bytes under way, if they have registers.
    let warps = match blocks {
        ..=160 if summands == m && held == 1 => 16,
        ..=480 => 8,
        _ => 4,
    };
    let warps = warps.min((within / depth).next_power_of_two());
    let words = scheme.group_size / 32;
    let groups = 2 * rows * (depth / scheme.group_size) * float_bytes(scales)?;
    let stages = 2 * (rows * (depth / 2 + 16 * words) + groups);
    let of_x = if norm { held * (2 * depth + 16) } else { 0 };
    let sums = (rows * (COLUMNS * columns + 1) + held) * 4;
    let template =
        [("group", scheme.group_size), ("columns", columns), ("warps", warps), ("held", held)];
    let output = Output::new(&[m, out], call.dtype);
    let mut launch = launch(&FEW, call.dtype, template, [blocks, 32 * warps], output)?;
    launch.template.extend([
        ("norm", Argument::Bool(norm)),
        ("residual", Argument::Bool(fusion == Fusion::Residual)),
        ("swiglu", Argument::Bool(matches!(fusion, Fusion::NormSwiglu { .. }))),
        ("epsilon", Argument::Int(epsilon.to_bits() as i32)),
    ]);
    Ok(Launch { dynamic_bytes: warps * (stages + of_x).max(sums), ..launch })
}

/// The launch for many rows of 16-bit floats.
fn many(call: &MatmulCall, shared_bytes: usize) -> Result<MatmulLaunches, LaunchError> {
    let [tile, depth] = MANY_TILE;
    let MatmulCall { m, rows: out, columns: within, scheme, scales, dtype } = *call;
    let group = scheme.group_size;
    if float_bytes(dtype)? != 2 || scales != dtype {
        return unsupported("many rows are 16-bit floats, as the scales are".into());
    }
    if group > 64 || !within.is_multiple_of(depth) {
        return unsupported(format!("rows of {within} in groups of {group} do not fill stages"));
    }
    let columns = if m <= 4 * COLUMNS { 4 } else { 8 };
    let copied = 2 * columns * COLUMNS * (depth + 8) + tile * 4 * (depth / 8 + 8);
    let bytes = 3 * (copied + 4 * tile * (depth / group));
    if bytes > shared_bytes {
        return unsupported(format!("{bytes} bytes of shared memory are more than {shared_bytes}"));
    }
    let tiles = out.div_ceil(tile);
    let most = (within / depth / 4).max(1);
    let splits = (ENOUGH_BLOCKS / tiles).clamp(1, most.min(8));
    let template = [("group", group), ("columns", columns)];
    let parts = if splits > 1 { Dtype::Float32 } else { dtype };
    let output = Output::new(&[splits, m, out], parts);
    let product = launch(&MANY, dtype, template, [tiles * splits, MANY_THREADS], output)?;
    let product = Launch { dynamic_bytes: bytes, ..product };
    if splits == 1 {
        return Ok((product, None));
    }
    let blocks = (m * out).div_ceil(MANY_THREADS);
    let output = Output::new(&[m, out], dtype);
    let sum = launch(&SUM, dtype, [], [blocks, MANY_THREADS], output)?;
    Ok((product, Some(sum)))
}

/// Returns a launch of `blocks` of `threads`.
fn launch<const N: usize>(
    source: &'static Source,
    dtype: Dtype,
    template: [(&'static str, usize); N],
    [blocks, threads]: [usize; 2],
    output: Output,
) -> Result<Launch, LaunchError> {
    let Ok(grid) = i32::try_from(blocks * threads) else {
        return unsupported(format!("{blocks} blocks have more threads than a grid may have"));
    };
    Ok(Launch {
        source,
        template: [("T", Argument::Dtype(dtype))].into_iter().chain(sizes(template)).collect(),
        grid: (grid, 1, 1),
        threadgroup: (threads as i32, 1, 1),
        outputs: vec![output],
        threadgroup_bytes: 0,
        dynamic_bytes: 0,
    })
}
