//! Models made of named arrays, such as parameters in training.

use std::collections::{BTreeMap, HashMap};

use mlx_llamba_kernels::Scheme;
use mlx_rs::Array;

use crate::config::Config;
use crate::error::{Error, Result, TensorProblem};
use crate::weights::Weights;

/// The dense arrays that a configuration requires, by canonical name.
pub(crate) struct NamedWeights<'a> {
    config: &'a Config,
    arrays: HashMap<String, &'a Array>,
}

impl<'a> NamedWeights<'a> {
    /// Checks that there is an array of the right shape for every tensor of the configuration.
    pub(crate) fn new(config: &'a Config, arrays: &'a BTreeMap<String, Array>) -> Result<Self> {
        let (mut found, mut problems) = (HashMap::new(), Vec::new());
        for (name, expected) in config.tensors() {
            match arrays.get(&name) {
                None => problems.push(TensorProblem::Missing { name, expected }),
                Some(array) => {
                    let shape: Vec<usize> = array.shape().iter().map(|&s| s as usize).collect();
                    if shape == expected {
                        found.insert(name, array);
                    } else {
                        problems.push(TensorProblem::Shape { name, found: shape, expected });
                    }
                }
            }
        }
        if problems.is_empty() { Ok(Self { config, arrays: found }) } else { Err(bad(problems)) }
    }
}

fn bad(problems: Vec<TensorProblem>) -> Error {
    Error::Tensors { path: "parameters".into(), problems }
}

impl Weights for NamedWeights<'_> {
    fn config(&self) -> &Config {
        self.config
    }

    fn array(&self, name: &str) -> Result<Array> {
        let missing = || bad(vec![TensorProblem::Unknown { name: name.to_owned() }]);
        self.arrays.get(name).map(|&array| array.clone()).ok_or_else(missing)
    }

    fn scheme(&self, _: &str) -> Option<Scheme> {
        None
    }

    fn contains(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    fn fingerprint(&self) -> String {
        "parameters".to_owned()
    }
}
