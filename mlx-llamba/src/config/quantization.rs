//! The `quantization` block that `mlx-lm` writes into `config.json`.

use std::collections::{BTreeMap, HashMap};

use mlx_llamba_kernels::{Mode, Scheme};
use serde_json::{Map, Value, json};

use crate::files::Problems;

/// The schemes of quantized matrices.
///
/// A matrix without an entry in `overrides` is quantized with `scheme` if the files hold scales
/// for it, and dense if not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    /// The scheme of all matrices without an override.
    pub scheme: Scheme,
    /// Schemes of single matrices, `None` for a dense one, by canonical name without `.weight`.
    pub overrides: BTreeMap<String, Option<Scheme>>,
}

impl Quantization {
    /// The scheme of the matrix of this name, if it is quantized; `None` if it must be dense.
    pub fn scheme_of(&self, path: &str) -> Option<Scheme> {
        self.overrides.get(path).copied().unwrap_or(Some(self.scheme))
    }

    /// Describes these schemes: the most common one, and overrides for the others. `None` if nothing
    /// is quantized. Dense matrices have no override, as with `mlx-lm`: they have no scales.
    pub(crate) fn of(schemes: &BTreeMap<String, Scheme>) -> Option<Self> {
        let mut counts: HashMap<Scheme, usize> = HashMap::new();
        for scheme in schemes.values() {
            *counts.entry(*scheme).or_default() += 1;
        }
        let scheme = *schemes.values().max_by_key(|scheme| counts.get(scheme))?;
        Self::with_default(scheme, schemes)
    }

    /// Describes these schemes with a given default.
    pub(crate) fn with_default(scheme: Scheme, schemes: &BTreeMap<String, Scheme>) -> Option<Self> {
        if schemes.is_empty() {
            return None;
        }
        let differ = schemes.iter().filter(|(_, own)| **own != scheme);
        let overrides = differ.map(|(path, own)| (path.clone(), Some(*own))).collect();
        Some(Self { scheme, overrides })
    }

    /// Parses the block, which is called `field` in `problems`.
    pub fn parse(block: &Value, field: &str, problems: &Problems) -> Option<Self> {
        let Value::Object(block) = block else {
            problems.add(field, block, "an object");
            return None;
        };
        let scheme = scheme(block, field, problems, |key| {
            // In the block itself, every other key is the name of a matrix.
            !matches!(key, "group_size" | "bits" | "mode")
        });
        let mut overrides = BTreeMap::new();
        for (path, value) in block {
            if matches!(path.as_str(), "group_size" | "bits" | "mode") {
                continue;
            }
            let name = format!("{field}.{path}");
            match value {
                Value::Bool(false) => {
                    overrides.insert(path.clone(), None);
                }
                Value::Bool(true) => {
                    overrides.extend(scheme.map(|scheme| (path.clone(), Some(scheme))));
                }
                Value::Object(object) => {
                    let own = self::scheme(object, &name, problems, |_| false);
                    overrides.extend(own.map(|own| (path.clone(), Some(own))));
                }
                other => problems.add(name, other, "an object, or false for a dense matrix"),
            }
        }
        Some(Self { scheme: scheme?, overrides })
    }

    pub(super) fn to_json(&self) -> Value {
        let mut block = scheme_to_json(self.scheme);
        for (path, scheme) in &self.overrides {
            let value = scheme.map_or(Value::Bool(false), |s| Value::Object(scheme_to_json(s)));
            block.insert(path.clone(), value);
        }
        Value::Object(block)
    }
}

fn scheme_to_json(scheme: Scheme) -> Map<String, Value> {
    let pairs = [
        ("group_size", json!(scheme.group_size)),
        ("bits", json!(scheme.bits)),
        ("mode", json!(scheme.mode.name())),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Reads group size, bits and mode of a JSON object.
fn scheme(
    object: &Map<String, Value>,
    field: &str,
    problems: &Problems,
    allowed: impl Fn(&str) -> bool,
) -> Option<Scheme> {
    let number = |key: &str, expected: &str| {
        let found = object.get(key);
        let number = found.and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        if number.is_none() {
            let found = found.map_or_else(|| "missing".to_owned(), Value::to_string);
            problems.add(format!("{field}.{key}"), found, expected);
        }
        number
    };
    let known = ["group_size", "bits", "mode"];
    for (key, value) in object {
        if !known.contains(&key.as_str()) && !allowed(key) {
            problems.add(format!("{field}.{key}"), value, "group_size, bits and mode only");
        }
    }
    let group_size = number("group_size", "32, 64 or 128 (16 in mode nvfp4)");
    let bits = number("bits", "2, 3, 4, 5, 6 or 8");
    let mode = match object.get("mode") {
        None => Some(Mode::Affine),
        Some(value) => {
            let mode = serde_json::from_value(value.clone()).ok();
            if mode.is_none() {
                problems.add(
                    format!("{field}.mode"),
                    value,
                    "\"affine\", \"mxfp4\", \"mxfp8\" or \"nvfp4\"",
                );
            }
            mode
        }
    };
    let (group_size, bits, mode) = (group_size?, bits?, mode?);
    Scheme::new(group_size, bits, mode)
        .map_err(|error| {
            problems.add(
                field,
                Value::Object(object.clone()),
                format!("a scheme that MLX supports: {error}"),
            );
        })
        .ok()
}
