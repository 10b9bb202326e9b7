//! A seeded mistake of each kind, and the same kernel without it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bounds;
mod divergence;
mod limits;
mod races;
mod values;

use mlx_llamba_emulator::{Buffer, Dtype, Error, Fault, FaultKind, Kernel, Launch, Run, run};

/// One dispatch with input `x` (64 floats) and output `y`, of 64 floats by default.
struct Case<'a> {
    body: &'a str,
    grid: u32,
    threadgroup: u32,
    outputs: i32,
}

impl<'a> Case<'a> {
    /// 64 threads in one threadgroup.
    fn new(body: &'a str) -> Self {
        Case { body, grid: 64, threadgroup: 64, outputs: 64 }
    }

    fn run(&self) -> Result<Run, Error> {
        let kernel = Kernel::new("seeded", &["x"], &["y"], self.body);
        let x = Buffer::new(Dtype::F32, &[64], (0..64).map(f64::from));
        let launch = Launch {
            grid: [self.grid, 1, 1],
            threadgroup: [self.threadgroup, 1, 1],
            outputs: vec![(vec![self.outputs], Dtype::F32)],
            ..Launch::default()
        };
        run(&kernel, &[x], &launch)
    }

    /// Returns the faults; a run without any, or another error, fails the test.
    fn faults(&self) -> Vec<Fault> {
        match self.run() {
            Err(Error::Faults(run)) => run.report.faults,
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("no fault found in\n{}", self.body),
        }
    }

    fn passes(&self) {
        if let Err(e) = self.run() {
            panic!("{e}\nin\n{}", self.body);
        }
    }
}

/// Checks that `bad` has only faults of `kind`, one of them at `line` of the body (counting its
/// empty first line), and none with `from` replaced by `to`.
fn seeded(kind: FaultKind, line: u32, bad: &str, from: &str, to: &str) -> Vec<Fault> {
    assert!(bad.contains(from), "{from}");
    Case::new(&bad.replace(from, to)).passes();
    let faults = Case::new(bad).faults();
    expect(&faults, kind, line);
    faults
}

fn expect(faults: &[Fault], kind: FaultKind, line: u32) {
    assert!(faults.iter().all(|f| f.kind == kind), "{faults:#?}");
    let place = format!("seeded.metal:{line}");
    assert!(faults.iter().any(|f| f.place == place), "{place} expected: {faults:#?}");
}
