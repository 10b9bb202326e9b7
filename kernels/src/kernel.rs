//! The kernels of a back end, which can be switched off one by one.

use std::fmt;

/// An operation as a kernel of a back end; plain MLX operations can take its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kernel {
    /// The mixer, for one token.
    MixerStep,
    /// The mixer, for 2 to [`MAX_STEPS`](crate::gpu::MAX_STEPS) tokens.
    MixerSteps,
    /// The mixer, for more tokens.
    MixerScan,
    /// Matrix multiplication, with one row of activations.
    MatmulRow,
    /// Matrix multiplication, with several rows.
    MatmulRows,
    /// The activation of an MLP.
    Swiglu,
    /// The norm.
    RmsNorm,
    /// Residual connection and norm.
    AddRmsNorm,
    /// Attention to a ring of texts.
    RingAttention,
    /// The draw of a token.
    Draw,
    /// Cross entropy over a vocabulary, with its gradient.
    CrossEntropy,
    /// The blocks of a step of decoding, whose products compute norms, gates and residual connections.
    Blocks,
    /// Rows of a quantized matrix, one for each sequence of a step.
    Rows,
}

impl Kernel {
    /// All kernels, in the order of [`name`](Self::name)'s list.
    pub const ALL: [Self; 13] = [
        Self::MixerStep,
        Self::MixerSteps,
        Self::MixerScan,
        Self::MatmulRow,
        Self::MatmulRows,
        Self::Swiglu,
        Self::RmsNorm,
        Self::AddRmsNorm,
        Self::RingAttention,
        Self::Draw,
        Self::CrossEntropy,
        Self::Blocks,
        Self::Rows,
    ];

    /// Returns its name, as messages and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MixerStep => "mixer of one token",
            Self::MixerSteps => "mixer of few tokens",
            Self::MixerScan => "mixer of many tokens",
            Self::MatmulRow => "matmul of one row",
            Self::MatmulRows => "matmul of rows",
            Self::Swiglu => "swiglu",
            Self::RmsNorm => "norm",
            Self::AddRmsNorm => "residual norm",
            Self::RingAttention => "ring attention",
            Self::Draw => "draw",
            Self::CrossEntropy => "cross entropy",
            Self::Blocks => "blocks of a step",
            Self::Rows => "rows of a matrix",
        }
    }

    /// Returns the mixer's kernel for `l` tokens.
    pub(crate) fn mixer(l: usize) -> Self {
        match l {
            0..=1 => Self::MixerStep,
            _ if l <= crate::gpu::MAX_STEPS => Self::MixerSteps,
            _ => Self::MixerScan,
        }
    }

    /// Returns the kernel that multiplies `rows` rows of activations.
    pub(crate) fn matmul(rows: usize) -> Self {
        if rows == 1 { Self::MatmulRow } else { Self::MatmulRows }
    }
}

/// A set of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Kernels(u16);

impl Kernels {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Returns true if `kernel` is in the set.
    pub fn contains(self, kernel: Kernel) -> bool {
        self.0 & (1 << kernel as u16) != 0
    }

    /// Returns the kernels in the set.
    pub fn iter(self) -> impl Iterator<Item = Kernel> {
        Kernel::ALL.into_iter().filter(move |&kernel| self.contains(kernel))
    }
}

impl FromIterator<Kernel> for Kernels {
    fn from_iter<I: IntoIterator<Item = Kernel>>(kernels: I) -> Self {
        Self(kernels.into_iter().fold(0, |set, kernel| set | 1 << kernel as u16))
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().map(Kernel::name).collect::<Vec<_>>().join(", "))
    }
}
