//! Launches of the Metal kernels under the emulator.

// Every test uses a part of it.
#![allow(dead_code, unreachable_pub)]

use mlx_llamba_emulator::{Buffer, Kernel, Launch as Run, Report, TemplateArg, check_types, run};
use mlx_llamba_kernels::gpu::{Argument, Launch, MixerCall, mixer_launch};
use mlx_llamba_kernels::oracle::State;
use mlx_rs::Dtype;

use crate::support::{Case, Data, Found};

fn dtype(dtype: Dtype) -> mlx_llamba_emulator::Dtype {
    use mlx_llamba_emulator::Dtype as E;
    match dtype {
        Dtype::Float32 => E::F32,
        Dtype::Float16 => E::F16,
        Dtype::Bfloat16 => E::BF16,
        Dtype::Int32 => E::I32,
        Dtype::Uint32 => E::U32,
        Dtype::Bool => E::Bool,
        other => panic!("no test passes {other:?}"),
    }
}

/// An input array.
pub fn buffer(of: Dtype, shape: &[usize], values: &[f64]) -> Buffer {
    let shape: Vec<i32> = shape.iter().map(|&s| s as i32).collect();
    Buffer::new(dtype(of), &shape, values.iter().copied())
}

/// Runs a launch; any fault ends the test.
pub fn run_launch(launch: &Launch, inputs: &[Buffer]) -> (Vec<Buffer>, Report) {
    let (source, header) = (launch.source.body(), launch.source.header());
    assert!(source.is_ascii() && header.is_ascii(), "MLX gives Metal ASCII");
    let of = launch.source;
    let kernel = Kernel::new(of.name, of.inputs, of.outputs, &source);
    let kernel = Kernel { header: &header, ..kernel };
    let template = launch.template.iter().map(|&(name, argument)| {
        let argument = match argument {
            Argument::Dtype(of) => TemplateArg::Dtype(dtype(of)),
            // MLX makes the kernel's name of them.
            Argument::Int(value) => TemplateArg::Int({
                assert!(value >= 0, "{name}");
                value
            }),
            Argument::Bool(value) => TemplateArg::Bool(value),
        };
        (name, argument)
    });
    // CUDA has whole threadgroups only.
    assert_eq!(launch.grid.0 % launch.threadgroup.0, 0, "{:?}", launch.grid);
    let size = |(x, y, z): (i32, i32, i32)| [x, y, z].map(|v| u32::try_from(v).unwrap());
    let how = Run {
        template: template.collect(),
        grid: size(launch.grid),
        threadgroup: size(launch.threadgroup),
        outputs: launch.outputs.iter().map(|o| (o.shape.clone(), dtype(o.dtype))).collect(),
        ..Run::default()
    };
    check_types(&kernel, inputs, &how)
        .unwrap_or_else(|error| panic!("{error}\n{:?}\n{source}", launch.template));
    let done = run(&kernel, inputs, &how)
        .unwrap_or_else(|error| panic!("{error}\n{:?}\n{source}", launch.template));
    assert_eq!(done.report.threadgroup_bytes, launch.threadgroup_bytes as u64, "threadgroup bytes");
    (done.outputs, done.report)
}

pub fn call_of(case: &Case) -> MixerCall {
    MixerCall {
        dims: case.dims,
        b: case.lengths.len(),
        l: case.l,
        dtype: case.dtype,
        split_A_log: case.split_A_log,
        ragged: case.ragged,
        conv_bias: case.conv_bias,
        z_bias: case.z_bias,
        activation: case.activation,
    }
}

pub fn launch_of(case: &Case) -> Launch {
    mixer_launch(&call_of(case)).unwrap()
}

/// The inputs of a mixer, in the order of `MIXER_INPUTS`.
pub fn inputs(case: &Case, rows: &[f64], states: &[State], data: &Data) -> Vec<Buffer> {
    let (dims, b, l, of) = (case.dims, case.lengths.len(), case.l, case.dtype);
    let (h, width) = (dims.h, dims.in_proj_dim());
    let D = buffer(Dtype::Float32, &[h], &data.weights.D);
    let (rows, A_log) = if case.split_A_log {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for row in rows.chunks_exact(width) {
            left.extend(&row[..width - h]);
            right.extend(&row[width - h..]);
        }
        let rows = buffer(of, &[b, l, width - h], &left);
        (rows, buffer(of, &[b, l, h], &right))
    } else {
        (buffer(of, &[b, l, width], rows), D.clone())
    };
    let lengths: Vec<f64> = case.lengths.iter().map(|&l| l as f64).collect();
    let conv: Vec<f64> = states.iter().flat_map(|s| s.conv.clone()).collect();
    let ssm: Vec<f64> = states.iter().flat_map(|s| s.ssm.clone()).collect();
    let weights = &data.weights;
    let or_D = |there: bool, array: Buffer| if there { array } else { D.clone() };
    let (conv_dim, k) = (dims.conv_dim(), dims.k);
    vec![
        rows,
        A_log,
        or_D(case.ragged, buffer(Dtype::Int32, &[b], &lengths)),
        or_D(k > 1, buffer(of, &[b, k - 1, conv_dim], &conv)),
        buffer(Dtype::Float32, &[b, h, dims.p, dims.n], &ssm),
        buffer(of, &[conv_dim, k], &weights.conv_weight),
        or_D(case.conv_bias, buffer(of, &[conv_dim], &weights.conv_bias)),
        or_D(case.z_bias, buffer(of, &[dims.d_inner()], &weights.z_bias)),
        D.clone(),
    ]
}

/// Runs a whole case with one launch.
pub fn emulate(launch: &Launch, case: &Case, data: &Data) -> (Found, Report) {
    let (outputs, report) = run_launch(launch, &inputs(case, &data.rows, &data.states, data));
    let [y, conv, ssm] = <[Buffer; 3]>::try_from(outputs).unwrap();
    let conv = if case.dims.k == 1 { Vec::new() } else { conv.to_f64() };
    (Found { y: y.to_f64(), conv, ssm: ssm.to_f64() }, report)
}

/// Some tokens of a case, of one sequence or of all.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub start: usize,
    pub end: usize,
    pub row: Option<usize>,
}

impl Piece {
    pub fn all(case: &Case) -> Self {
        Self { start: 0, end: case.l, row: None }
    }
}

/// Runs a piece of a case from `states`.
pub fn piece(case: &Case, data: &Data, states: &[State], piece: Piece) -> Found {
    let chosen = |row: usize| piece.row.is_none_or(|only| only == row);
    let width = case.dims.in_proj_dim();
    let mut rows = Vec::new();
    for (_, of_row) in
        data.rows.chunks_exact(case.l * width).enumerate().filter(|(row, _)| chosen(*row))
    {
        rows.extend(&of_row[piece.start * width..piece.end * width]);
    }
    let states: Vec<State> =
        states.iter().enumerate().filter(|(row, _)| chosen(*row)).map(|(_, s)| s.clone()).collect();
    let l = piece.end - piece.start;
    let part = Case { l, lengths: vec![l; states.len()], ..case.clone() };
    let inputs = inputs(&part, &rows, &states, data);
    let (outputs, _) = run_launch(&launch_of(&part), &inputs);
    let [y, conv, ssm] = <[Buffer; 3]>::try_from(outputs).unwrap();
    let conv = if case.dims.k == 1 { Vec::new() } else { conv.to_f64() };
    Found { y: y.to_f64(), conv, ssm: ssm.to_f64() }
}

/// Runs a case cut at `cuts`, each piece from the states of the piece before.
pub fn in_pieces(case: &Case, data: &Data, cuts: &[usize]) -> Found {
    let b = case.lengths.len();
    let mut states = data.states.clone();
    let mut y = vec![Vec::new(); b];
    let mut start = 0;
    for end in cuts.iter().copied().chain([case.l]) {
        let found = piece(case, data, &states, Piece { start, end, row: None });
        for (row, state) in states.iter_mut().enumerate() {
            let of = |all: &[f64]| all[row * all.len() / b..(row + 1) * all.len() / b].to_vec();
            y[row].extend(of(&found.y));
            *state = State { conv: of(&found.conv), ssm: of(&found.ssm) };
        }
        start = end;
    }
    Found {
        y: y.concat(),
        conv: states.iter().flat_map(|s| s.conv.clone()).collect(),
        ssm: states.iter().flat_map(|s| s.ssm.clone()).collect(),
    }
}
