//! Holds the tensors of the files against the tensors that the configuration asks for.

use std::collections::{BTreeMap, HashMap};

use mlx_llamba_kernels::{Mode, Scheme};
use safetensors::Dtype;

use super::Layout;
use super::names::{Kind, Slot, cartesia, slots};
use crate::config::Config;
use crate::error::TensorProblem;
use crate::files::header::Stored;

/// All tensors of all files, by the name they have there, with the number of their file.
pub(crate) type Found = HashMap<String, (usize, Stored)>;

/// A tensor that has its place in the model.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) name: String,
    /// Canonical: the convolution's axis of 1 is gone.
    pub(crate) shape: Vec<usize>,
    pub(crate) file: usize,
    pub(crate) stored: Stored,
}

/// The outcome: every tensor in the model's order, and how the quantized matrices are coded.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) placed: Vec<Placed>,
    pub(crate) schemes: BTreeMap<String, Scheme>,
}

/// Takes every tensor the configuration asks for out of `found`, checks its shape and dtype, and
/// reports everything that is missing, wrong, or left over.
pub(crate) fn check(
    config: &Config,
    layout: Layout,
    found: Found,
) -> Result<Checked, Vec<TensorProblem>> {
    let mut check = Check {
        config,
        layout,
        found,
        problems: Vec::new(),
        checked: Checked { placed: Vec::new(), schemes: BTreeMap::new() },
    };
    for slot in slots(config) {
        match check.scheme(&slot) {
            Some(Ok(scheme)) => check.quantized(&slot, scheme),
            Some(Err(problem)) => check.unreadable(&slot, problem),
            None => check.dense(&slot),
        }
    }
    let mut unknown: Vec<String> = check.found.into_keys().collect();
    unknown.sort_unstable();
    check.problems.extend(unknown.into_iter().map(|name| TensorProblem::Unknown { name }));
    if check.problems.is_empty() { Ok(check.checked) } else { Err(check.problems) }
}

struct Check<'a> {
    config: &'a Config,
    layout: Layout,
    found: Found,
    problems: Vec<TensorProblem>,
    checked: Checked,
}

impl Check<'_> {
    /// The name that this checkpoint has for a canonical name.
    fn stored_name(&self, name: &str) -> String {
        match self.layout {
            Layout::CartesiaMlx => cartesia(name),
            Layout::PyTorch | Layout::MlxLlamba => name.to_owned(),
        }
    }

    fn peek(&self, name: &str) -> Option<&Stored> {
        self.found.get(&self.stored_name(name)).map(|(_, stored)| stored)
    }

    /// How a matrix is quantized: `None` if it is dense.
    fn scheme(&self, slot: &Slot) -> Option<Result<Scheme, TensorProblem>> {
        if slot.kind != Kind::Matrix {
            return None;
        }
        let packed = self.peek(&slot.name).is_some_and(|weight| weight.dtype == Dtype::U32);
        let quantized = packed || self.peek(&format!("{}.scales", slot.prefix())).is_some();
        if self.layout == Layout::CartesiaMlx {
            return quantized.then(|| self.derive(slot));
        }
        let block = self.config.quantization.as_ref()?;
        match block.overrides.get(slot.prefix()) {
            Some(scheme) => scheme.map(Ok),
            None => quantized.then_some(Ok(block.scheme)),
        }
    }

    /// The only scheme that gives the shapes of a matrix's packed values and scales.
    fn derive(&self, slot: &Slot) -> Result<Scheme, TensorProblem> {
        let columns = slot.shape[1];
        let of = |suffix: &str| {
            let stored = self.peek(&format!("{}.{suffix}", slot.prefix()))?;
            stored.shape.get(1).copied().filter(|&n| n > 0)
        };
        let (words, groups) = (of("weight"), of("scales"));
        let scheme = words.zip(groups).and_then(|(words, groups)| {
            let bits = words.checked_mul(32)?;
            let whole = columns.is_multiple_of(groups) && bits.is_multiple_of(columns);
            let scheme = Scheme::new(columns / groups, bits / columns, Mode::Affine).ok();
            scheme.filter(|_| whole)
        });
        scheme.ok_or_else(|| TensorProblem::Scheme {
            name: self.stored_name(&slot.name),
            reason: format!(
                "rows of {columns} values in {} words with {} scales fit no group size and bits",
                words.unwrap_or(0),
                groups.unwrap_or(0)
            ),
        })
    }

    /// The parts of a matrix whose scheme is unknown have been complained about as one.
    fn unreadable(&mut self, slot: &Slot, problem: TensorProblem) {
        self.problems.push(problem);
        for suffix in ["weight", "scales", "biases"] {
            let name = self.stored_name(&format!("{}.{suffix}", slot.prefix()));
            self.found.remove(&name);
        }
    }

    fn dense(&mut self, slot: &Slot) {
        let shapes = match (slot.kind, slot.shape.as_slice()) {
            // PyTorch keeps an axis of 1 in the middle, MLX at the end; the bytes are the same.
            (Kind::Conv, &[c, k]) => vec![vec![c, 1, k], vec![c, k], vec![c, k, 1]],
            _ => vec![slot.shape.clone()],
        };
        self.take(&slot.name, &slot.shape, &shapes, Expected::Float);
    }

    fn quantized(&mut self, slot: &Slot, scheme: Scheme) {
        let (rows, columns) = (slot.shape[0], slot.shape[1]);
        let words = match scheme.packed_columns(columns) {
            Ok(words) => words,
            Err(error) => {
                let name = self.stored_name(&slot.name);
                let problem = TensorProblem::Scheme { name, reason: error.to_string() };
                return self.unreadable(slot, problem);
            }
        };
        let prefix = slot.prefix().to_owned();
        let (packed, grouped) = (vec![rows, words], vec![rows, columns / scheme.group_size]);
        self.take(&slot.name, &packed, std::slice::from_ref(&packed), Expected::Only(Dtype::U32));
        let coded = scheme.mode != Mode::Affine;
        let expected = if coded { Expected::Only(Dtype::U8) } else { Expected::Float };
        let scales = self.take(
            &format!("{prefix}.scales"),
            &grouped,
            std::slice::from_ref(&grouped),
            expected,
        );
        if scheme.mode.has_biases() {
            let expected = scales.map_or(Expected::Float, Expected::Only);
            let shapes = std::slice::from_ref(&grouped);
            self.take(&format!("{prefix}.biases"), &grouped, shapes, expected);
        }
        self.checked.schemes.insert(prefix, scheme);
    }

    /// Moves a tensor from the found ones to the placed ones; gives its dtype if that is legal.
    fn take(
        &mut self,
        name: &str,
        canonical: &[usize],
        shapes: &[Vec<usize>],
        expected: Expected,
    ) -> Option<Dtype> {
        let stored_name = self.stored_name(name);
        let Some((file, stored)) = self.found.remove(&stored_name) else {
            let expected = shapes.first().cloned().unwrap_or_default();
            self.problems.push(TensorProblem::Missing { name: stored_name, expected });
            return None;
        };
        let dtype = stored.dtype;
        if !shapes.contains(&stored.shape) {
            self.problems.push(TensorProblem::Shape {
                name: stored_name.clone(),
                found: stored.shape.clone(),
                expected: shapes.first().cloned().unwrap_or_default(),
            });
        }
        let legal = expected.allows(dtype);
        if !legal {
            self.problems.push(TensorProblem::Dtype {
                name: stored_name,
                found: dtype.to_string(),
                expected: expected.to_string(),
            });
        }
        let (name, shape) = (name.to_owned(), canonical.to_vec());
        self.checked.placed.push(Placed { name, shape, file, stored });
        legal.then_some(dtype)
    }
}

/// Dtypes that a tensor may have.
#[derive(Clone, Copy)]
enum Expected {
    Float,
    Only(Dtype),
}

impl Expected {
    fn allows(self, dtype: Dtype) -> bool {
        match self {
            Self::Float => matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16),
            Self::Only(only) => dtype == only,
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Float => f.write_str("F32, F16 or BF16"),
            Self::Only(only) => write!(f, "{only}"),
        }
    }
}
