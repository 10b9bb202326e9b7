//! Matches the tensors that the files hold with those that the model needs.

use std::collections::{BTreeMap, HashMap};

use mlx_llamba_kernels::{Mode, Scheme};
use safetensors::Dtype;

use super::Layout;
use super::cartesia;
use crate::config::{Config, TensorKind, TensorSpec, specs};
use crate::error::TensorProblem;
use crate::files::StoredTensor;

/// The tensors of all files, by their names there.
pub(super) type Found = HashMap<String, StoredTensor>;

/// The tensors of a sound checkpoint.
#[derive(Debug)]
pub(super) struct Checked {
    /// Canonical names with the tensors, in the model's order; the convolution's axis of 1 is
    /// removed.
    pub(super) tensors: Vec<(String, StoredTensor)>,
    /// Schemes of the quantized matrices, by canonical name without `.weight`.
    pub(super) schemes: BTreeMap<String, Scheme>,
}

/// Finds every tensor that the model needs in `found`, checks its shape and dtype, and reports
/// everything that is missing, wrong, or unknown.
pub(super) fn check(
    config: &Config,
    layout: Layout,
    found: Found,
) -> Result<Checked, Vec<TensorProblem>> {
    let mut check = Check {
        config,
        layout,
        found,
        problems: Vec::new(),
        checked: Checked { tensors: Vec::new(), schemes: BTreeMap::new() },
    };
    for spec in specs(config) {
        match check.scheme(&spec) {
            Some(Ok(scheme)) => check.quantized(&spec, scheme),
            Some(Err(problem)) => check.unreadable(&spec, problem),
            None => check.dense(&spec),
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
    /// The name in this checkpoint's layout of a canonical name.
    fn stored_name(&self, name: &str) -> String {
        match self.layout {
            Layout::CartesiaMlx => cartesia::stored_name(name),
            Layout::PyTorch | Layout::MlxLlamba => name.to_owned(),
        }
    }

    fn peek(&self, name: &str) -> Option<&StoredTensor> {
        self.found.get(&self.stored_name(name))
    }

    /// The scheme of a matrix; `None` for a dense one and for what is no matrix.
    fn scheme(&self, spec: &TensorSpec) -> Option<Result<Scheme, TensorProblem>> {
        if !spec.is_matrix() {
            return None;
        }
        let packed = self.peek(&spec.name).is_some_and(|weight| weight.dtype() == Dtype::U32);
        let quantized = packed || self.peek(&format!("{}.scales", spec.prefix())).is_some();
        if self.layout == Layout::CartesiaMlx {
            return quantized.then(|| self.derive(spec));
        }
        let block = self.config.quantization.as_ref()?;
        match block.overrides.get(spec.prefix()) {
            Some(scheme) => scheme.map(Ok),
            None => quantized.then_some(Ok(block.scheme)),
        }
    }

    /// The only scheme that a matrix's packed values and scales can have, by their shapes.
    fn derive(&self, spec: &TensorSpec) -> Result<Scheme, TensorProblem> {
        let columns = spec.shape[1];
        let of = |suffix: &str| {
            let stored = self.peek(&format!("{}.{suffix}", spec.prefix()))?;
            stored.shape().get(1).copied().filter(|&n| n > 0)
        };
        let (words, groups) = (of("weight"), of("scales"));
        let scheme = words.zip(groups).and_then(|(words, groups)| {
            let bits = words.checked_mul(32)?;
            let whole = columns.is_multiple_of(groups) && bits.is_multiple_of(columns);
            let scheme = Scheme::new(columns / groups, bits / columns, Mode::Affine).ok();
            scheme.filter(|_| whole)
        });
        scheme.ok_or_else(|| TensorProblem::Scheme {
            name: self.stored_name(&spec.name),
            reason: format!(
                "rows of {columns} values in {} words with {} scales fit no group size and bits",
                words.unwrap_or(0),
                groups.unwrap_or(0)
            ),
        })
    }

    /// Reports a matrix as a whole, not its parts, if its scheme is unknown.
    fn unreadable(&mut self, spec: &TensorSpec, problem: TensorProblem) {
        self.problems.push(problem);
        for suffix in ["weight", "scales", "biases"] {
            let name = self.stored_name(&format!("{}.{suffix}", spec.prefix()));
            self.found.remove(&name);
        }
    }

    fn dense(&mut self, spec: &TensorSpec) {
        let shapes = match (spec.kind, spec.shape.as_slice()) {
            // PyTorch has an axis of 1 in the middle, MLX at the end; the bytes are the same.
            (TensorKind::Conv, &[c, k]) => vec![vec![c, 1, k], vec![c, k], vec![c, k, 1]],
            _ => vec![spec.shape.clone()],
        };
        self.take(&spec.name, &spec.shape, &shapes, Expected::Float);
    }

    fn quantized(&mut self, spec: &TensorSpec, scheme: Scheme) {
        let (rows, columns) = (spec.shape[0], spec.shape[1]);
        let words = match scheme.packed_columns(columns) {
            Ok(words) => words,
            Err(error) => {
                let name = self.stored_name(&spec.name);
                let problem = TensorProblem::Scheme { name, reason: error.to_string() };
                return self.unreadable(spec, problem);
            }
        };
        let prefix = spec.prefix().to_owned();
        let (packed, grouped) = (vec![rows, words], vec![rows, columns / scheme.group_size]);
        self.take(&spec.name, &packed, std::slice::from_ref(&packed), Expected::Only(Dtype::U32));
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

    /// Moves a tensor from the found to the checked ones and returns its dtype if that is legal.
    fn take(
        &mut self,
        name: &str,
        canonical: &[usize],
        shapes: &[Vec<usize>],
        expected: Expected,
    ) -> Option<Dtype> {
        let stored_name = self.stored_name(name);
        let Some(stored) = self.found.remove(&stored_name) else {
            let expected = shapes.first().cloned().unwrap_or_default();
            self.problems.push(TensorProblem::Missing { name: stored_name, expected });
            return None;
        };
        let dtype = stored.dtype();
        if shapes.iter().any(|shape| shape == stored.shape()) {
            self.checked.tensors.push((name.to_owned(), stored.reshaped(canonical)));
        } else {
            self.problems.push(TensorProblem::Shape {
                name: stored_name.clone(),
                found: stored.shape().to_vec(),
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
        legal.then_some(dtype)
    }
}

/// The dtypes that a tensor may have.
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
