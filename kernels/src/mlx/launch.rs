//! Descriptions of custom kernels and of their launches; pure data.

use mlx_rs::Dtype;

/// A kernel's source and the names of its arrays.
#[derive(Debug)]
pub struct Source {
    /// Name, one per source.
    pub name: &'static str,
    /// Names of the inputs, in order.
    pub inputs: &'static [&'static str],
    /// Names of the outputs, in order.
    pub outputs: &'static [&'static str],
    /// The language of header and body.
    pub language: Language,
    pub(crate) header: &'static [&'static str],
    pub(crate) body: &'static str,
}

/// A language that kernels are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Metal, which other GPUs compile through a dialect of theirs.
    Metal,
    /// CUDA.
    Cuda,
}

impl Source {
    /// Returns the code in front of the kernel function.
    pub fn header(&self) -> String {
        self.header.iter().map(|part| code(part)).collect()
    }

    /// Returns the inside of the kernel function.
    pub fn body(&self) -> String {
        code(self.body)
    }
}

/// Removes comments: MLX copies and hashes the text for every launch.
pub(crate) fn code(text: &str) -> String {
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
    /// Shape.
    pub shape: Vec<i32>,
    /// Dtype of the elements.
    pub dtype: Dtype,
}

impl Output {
    pub(crate) fn new(shape: &[usize], dtype: Dtype) -> Self {
        Self { shape: shape.iter().map(|&s| s as i32).collect(), dtype }
    }
}

/// One dispatch of a kernel.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The kernel.
    pub source: &'static Source,
    /// Its template arguments, in declaration order.
    pub template: Vec<(&'static str, Argument)>,
    /// Threads in x, y, z.
    pub grid: (i32, i32, i32),
    /// Threads of a threadgroup in x, y, z.
    pub threadgroup: (i32, i32, i32),
    /// Shapes and dtypes of the outputs.
    pub outputs: Vec<Output>,
    /// Bytes of threadgroup memory per threadgroup, computed from the sizes.
    pub threadgroup_bytes: usize,
    /// Bytes of threadgroup memory that the kernel does not declare but is given by the launch; 0 in
    /// Metal.
    pub dynamic_bytes: usize,
}
