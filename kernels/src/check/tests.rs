#![allow(clippy::unwrap_used)]

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype, array};

use super::blocks::one_by_one;
use super::*;
use crate::attention::RingAttention;
use crate::draw::Draw;
use crate::mixer::{Mixed, MixerArgs, MixerState};
use crate::operations::{Operations, Plain};
use crate::{BlocksArgs, CrossEntropy, CrossEntropyOptions, Dims, Kernels, QuantizationError};

/// A back end whose kernels all have the same fault.
#[derive(Debug)]
enum Faulty {
    /// They do not compile.
    Throws,
    /// Outputs are wrong by 1 %.
    Wrong,
    /// One output is NaN.
    Nan,
    /// The mixer's state is wrong by 1 %.
    State,
    /// The blocks of a step are wrong by 1 %, and nothing else.
    Blocks,
}

impl Faulty {
    fn spoil(&self, result: Array) -> Result<Array> {
        match self {
            Self::Throws => Err(Exception::custom("error: no kernel of that name")),
            Self::Wrong => result.multiply(array!(1.01f32).as_dtype(result.dtype())?),
            Self::Nan => result.add(array!(f32::NAN).as_dtype(result.dtype())?),
            Self::State | Self::Blocks => Ok(result),
        }
    }
}

impl Operations for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn describe(&self) -> String {
        format!("{self:?} kernels")
    }

    fn is_for_current_device(&self) -> Result<bool> {
        Ok(true)
    }

    fn takes(&self, _: Dtype) -> std::result::Result<(), String> {
        Ok(())
    }

    fn kernels(&self) -> Kernels {
        Kernel::ALL.into_iter().collect()
    }

    fn matmul(&self, x: &Array, weight: &Weight) -> std::result::Result<Array, QuantizationError> {
        Ok(self.spoil(Plain.matmul(x, weight)?)?)
    }

    fn rows(
        &self,
        ids: &Array,
        weight: &Weight,
        dtype: Dtype,
    ) -> std::result::Result<Array, QuantizationError> {
        Ok(self.spoil(weight.rows(ids, dtype)?)?)
    }

    fn mixer(&self, args: MixerArgs<'_>) -> Result<Mixed> {
        let Mixed { y, state: MixerState { conv, ssm } } = Plain.mixer(args)?;
        let ssm = if matches!(self, Self::State) { ssm.multiply(array!(1.01f32))? } else { ssm };
        Ok(Mixed { y: self.spoil(y)?, state: MixerState { conv, ssm } })
    }

    fn blocks(&self, args: &BlocksArgs<'_>) -> Result<Option<(Array, Vec<MixerState>)>> {
        if !matches!(self, Self::Blocks) {
            return Ok(None);
        }
        let product = |x: &Array, weight: &Weight| Ok(Backend::PLAIN.matmul(x, weight)?);
        let [normed, conv, ssm]: [Array; 3] =
            one_by_one(args, Backend::PLAIN, product).unwrap().try_into().unwrap();
        Ok(Some((normed.multiply(array!(1.01f32))?, vec![MixerState { conv, ssm }])))
    }

    fn swiglu(&self, gate_up: &Array) -> Result<Array> {
        self.spoil(Plain.swiglu(gate_up)?)
    }

    fn rms_norm(&self, x: &Array, weight: &Array, epsilon: f32, narrow: Dtype) -> Result<Array> {
        self.spoil(Plain.rms_norm(x, weight, epsilon, narrow)?)
    }

    fn add_rms_norm(
        &self,
        x: &Array,
        y: &Array,
        weight: &Array,
        epsilon: f32,
        narrow: Dtype,
    ) -> Result<(Array, Array)> {
        let (sum, normed) = Plain.add_rms_norm(x, y, weight, epsilon, narrow)?;
        Ok((sum, self.spoil(normed)?))
    }

    fn ring_attention(&self, ring: &RingAttention<'_>) -> Result<Array> {
        self.spoil(Plain.ring_attention(ring)?)
    }

    fn draw(&self, logits: &Array, draw: &Draw<'_>) -> Result<Array> {
        self.spoil(Plain.draw(logits, draw)?.as_dtype(Dtype::Float32)?)
    }

    fn cross_entropy(
        &self,
        logits: &Array,
        teacher: Option<&Array>,
        how: CrossEntropyOptions,
    ) -> Result<CrossEntropy> {
        let found = Plain.cross_entropy(logits, teacher, how)?;
        Ok(CrossEntropy { kl: self.spoil(found.kl.clone())?, ..found })
    }
}

/// Returns the outcomes of the checks that apply to a back end.
fn run(backend: Backend, checks: &[Check], float32: f64) -> Vec<Outcome> {
    let wanted = checks.iter().filter(|check| check.applies(backend));
    wanted.map(|check| check.run(backend, float32)).collect()
}

const SMALL: Dims = Dims { h: 4, g: 2, p: 8, n: 16, k: 4 };

/// One small check of each kernel in a dtype.
fn one_each(dtype: Dtype) -> Vec<Check> {
    let mixer = |l| Check::Mixer(Case::new([4, 2, 8, 16, 4], 1, l).dtype(dtype));
    let matmul = |rows| {
        let matrix = Matrix::Random { out: 40, within: 128, group: 64 };
        Check::Matmul { rows, matrix, dtype }
    };
    let norm = |residual| Check::Norm { residual, rows: 3, width: 24, dtype };
    vec![
        mixer(1),
        mixer(5),
        mixer(40),
        matmul(1),
        matmul(9),
        Check::Swiglu { rows: 3, width: 24, dtype },
        norm(false),
        norm(true),
        Check::RingAttention(Ring { dtype, ..rings().swap_remove(1) }),
        Check::Draw { vocab: 700, dtype },
        Check::CrossEntropy { rows: 3, vocab: 70, temperature: 2.0, dtype },
        Check::Blocks(Step { b: 2, d: 64, hidden: 96, dims: SMALL, group: 32, dtype }),
        Check::Rows { rows: 3, matrix: Matrix::Random { out: 40, within: 128, group: 64 }, dtype },
    ]
}

#[test]
fn every_kernel_has_a_check() {
    let checked: Vec<Kernel> = one_each(Dtype::Float32).iter().map(Check::kernel).collect();
    assert_eq!(checked, Kernel::ALL);
    let listed: Kernels = all().iter().map(Check::kernel).collect();
    assert_eq!(listed, Kernel::ALL.into_iter().collect());
}

#[test]
fn right_kernels_pass() {
    let checks = one_each(Dtype::Float32);
    let outcomes = run(Backend::CPU, &checks, FLOAT32);
    assert_eq!(
        outcomes.len(),
        8,
        "attention, draws and cross entropy have no kernel of that list for CPUs"
    );
    for outcome in outcomes {
        assert!(outcome.passed() && outcome.time > Duration::ZERO, "{outcome}");
    }
    assert!(run(Backend::PLAIN, &checks, FLOAT32).is_empty());
}

#[test]
fn every_fault_of_every_kernel_is_found_and_mended() {
    static FAULTS: [Faulty; 3] = [Faulty::Throws, Faulty::Wrong, Faulty::Nan];
    for fault in &FAULTS {
        let backend = Backend::of(fault);
        let outcomes = run(backend, &one_each(Dtype::Float32), 10.0 * FLOAT32);
        assert_eq!(outcomes.len(), Kernel::ALL.len());
        for outcome in &outcomes {
            assert!(!outcome.passed(), "{backend:?} {fault:?}: {outcome}");
            let thrown = outcome.failure.as_ref().is_some_and(|text| text.contains("no kernel of"));
            assert_eq!(thrown, matches!(fault, Faulty::Throws), "{outcome}");
        }
        let failed = outcomes.iter().filter(|outcome| !outcome.passed());
        let mended = backend.without(failed.map(|outcome| outcome.kernel).collect());
        assert_ne!(mended, backend);
        assert!(mended.describe().ends_with(
            "without mixer of one token, mixer of few tokens, \
            mixer of many tokens, matmul of one row, matmul of rows, swiglu, norm, residual norm, \
            ring attention, draw, cross entropy, blocks of a step, rows of a matrix"
        ));
        for outcome in run(mended, &one_each(Dtype::Float32), 10.0 * FLOAT32) {
            assert!(outcome.passed(), "{outcome}");
        }
    }
}

#[test]
fn states_are_compared_too() {
    static STATE: Faulty = Faulty::State;
    for outcome in run(Backend::of(&STATE), &one_each(Dtype::Float32), FLOAT32) {
        let has_state = ["mixer", "blocks"].iter().any(|name| outcome.case.starts_with(name));
        assert_eq!(outcome.passed(), !has_state, "{outcome}");
    }
}

#[test]
fn blocks_that_are_wrong_are_switched_off_and_single_operations_run() {
    static BLOCKS: Faulty = Faulty::Blocks;
    let backend = Backend::of(&BLOCKS);
    for outcome in run(backend, &one_each(Dtype::Float32), FLOAT32) {
        assert_eq!(outcome.passed(), outcome.kernel != Kernel::Blocks, "{outcome}");
    }
    let mended = backend.without([Kernel::Blocks].into_iter().collect());
    for outcome in run(mended, &one_each(Dtype::Float32), FLOAT32) {
        assert!(outcome.passed(), "{outcome}");
    }
}

#[test]
fn one_kernel_is_switched_off_and_the_others_run() {
    static NAN: Faulty = Faulty::Nan;
    let backend =
        Backend::of(&NAN).without([Kernel::MixerStep, Kernel::Swiglu].into_iter().collect());
    for outcome in run(backend, &one_each(Dtype::Float32), FLOAT32) {
        let off = backend.switched_off().contains(outcome.kernel);
        assert_eq!(outcome.passed(), off, "{outcome}");
    }
}

/// Without Metal its kernels can be launched but not run, which shows when they are evaluated.
#[test]
fn kernels_that_fail_when_they_are_evaluated_are_found() {
    let here = crate::mlx::is_available(mlx_rs::DeviceType::Gpu).unwrap();
    for outcome in run(Backend::METAL, &one_each(Dtype::Float32)[..1], 10.0 * FLOAT32) {
        assert_eq!(outcome.passed(), here, "{outcome}");
        assert_eq!(outcome.failure.is_none(), here);
    }
}

#[test]
fn rows_of_a_table_stand_below_its_heading() {
    let outcome = one_each(Dtype::Bfloat16)[5].run(Backend::PLAIN, FLOAT32);
    let row = outcome.to_string();
    assert!(row.starts_with("swiglu Bfloat16 3 x 24  ") && row.len() == HEADING.len(), "{row}");
    assert!(!row.contains("<--"));
    let wrong = Outcome { error: 0.5, ..outcome };
    assert!(wrong.to_string().ends_with("  <-- too large"), "{wrong}");
    let failed = Outcome { failure: Some("bad\nworse".into()), error: f64::INFINITY, ..wrong };
    assert!(failed.to_string().ends_with("  <-- bad"), "{failed}");
}
