//! What MLX is given to run a kernel, and the one place that gives it.

use std::cell::RefCell;
use std::rc::Rc;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use super::ffi::Kernel;

/// Threadgroup memory of one threadgroup on every Apple GPU.
pub const THREADGROUP_BYTES: usize = 32 * 1024;

/// A kernel as it is written down.
#[derive(Debug)]
pub struct Source {
    /// Its name, one per source.
    pub name: &'static str,
    /// Names of its inputs, in order.
    pub inputs: &'static [&'static str],
    /// Names of its outputs, in order.
    pub outputs: &'static [&'static str],
    pub(super) header: &'static [&'static str],
    pub(super) body: &'static str,
}

impl Source {
    /// What stands before the kernel.
    pub fn header(&self) -> String {
        self.header.iter().map(|part| code(part)).collect()
    }

    /// The inside of the kernel function.
    pub fn body(&self) -> String {
        code(self.body)
    }
}

/// Without comments: MLX copies and hashes the text for every launch.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let line = line.split_once("//").map_or(line, |(before, _)| before).trim();
        if !line.is_empty() {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// A template argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// `typename`
    Dtype(Dtype),
    /// `int`
    Int(i32),
    /// `bool`
    Bool(bool),
}

/// An output of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its shape.
    pub shape: Vec<i32>,
    /// Its elements.
    pub dtype: Dtype,
}

impl Output {
    pub(super) fn new(shape: &[usize], dtype: Dtype) -> Self {
        Self { shape: shape.iter().map(|&s| s as i32).collect(), dtype }
    }
}

/// One dispatch of a kernel.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What runs.
    pub source: &'static Source,
    /// Its template arguments, in declaration order.
    pub template: Vec<(&'static str, Argument)>,
    /// Threads in x, y, z.
    pub grid: (i32, i32, i32),
    /// Threads of a threadgroup in x, y, z.
    pub threadgroup: (i32, i32, i32),
    /// Shapes and dtypes of the outputs.
    pub outputs: Vec<Output>,
    /// Threadgroup memory that a threadgroup takes, by the arithmetic of its sizes.
    pub threadgroup_bytes: usize,
}

impl Launch {
    /// Puts the kernel into MLX's graph. The inputs must have the shapes and dtypes that the
    /// launch was made from.
    pub(super) fn run<const N: usize>(&self, inputs: &[&Array]) -> Result<[Array; N]> {
        let kernel = kernel(self.source)?;
        // SAFETY: the functions of this module make launches from the shapes of the inputs they
        // pass. The kernels stay inside arrays of these shapes, whatever their values (lengths are
        // clamped), write every element of every output, and never an input: the emulator's tests
        // check this for every kernel over a list of shapes.
        let outputs = unsafe { kernel.apply(self, inputs)? };
        outputs.try_into().map_err(|found: Vec<Array>| {
            let (name, found) = (self.source.name, found.len());
            Exception::custom(format!("{name}: {found} outputs instead of {N}"))
        })
    }
}

/// The kernel object of a source, made once per thread: MLX's handles stay on their thread.
fn kernel(source: &'static Source) -> Result<Rc<Kernel>> {
    thread_local! {
        static KERNELS: RefCell<Vec<(&'static str, Rc<Kernel>)>> =
            const { RefCell::new(Vec::new()) };
    }
    KERNELS.with_borrow_mut(|kernels| {
        if let Some((_, kernel)) = kernels.iter().find(|(name, _)| *name == source.name) {
            return Ok(Rc::clone(kernel));
        }
        let kernel = Rc::new(Kernel::new(source)?);
        kernels.push((source.name, Rc::clone(&kernel)));
        Ok(kernel)
    })
}

/// Sizes as template arguments.
pub(super) fn sizes<const N: usize>(
    of: [(&'static str, usize); N],
) -> impl Iterator<Item = (&'static str, Argument)> {
    of.into_iter().map(|(name, value)| (name, Argument::Int(value as i32)))
}
