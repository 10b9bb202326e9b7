//! Arrays of kernels: a dtype, a shape, and bytes in row-major order.

use half::{bf16, f16};

/// The element types that MLX passes to kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    BF16,
    F32,
}

impl Dtype {
    /// Returns the bytes of an element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::I16 | Dtype::F16 | Dtype::BF16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 => 8,
        }
    }

    /// Returns the name that MLX writes in a signature.
    #[must_use]
    pub fn metal_name(self) -> &'static str {
        match self {
            Dtype::Bool => "bool",
            Dtype::U8 => "uint8_t",
            Dtype::I8 => "int8_t",
            Dtype::U16 => "uint16_t",
            Dtype::I16 => "int16_t",
            Dtype::U32 => "uint32_t",
            Dtype::I32 => "int32_t",
            Dtype::U64 => "uint64_t",
            Dtype::I64 => "int64_t",
            Dtype::F16 => "float16_t",
            Dtype::BF16 => "bfloat16_t",
            Dtype::F32 => "float",
        }
    }

    fn encode(self, x: f64, out: &mut Vec<u8>) {
        match self {
            Dtype::Bool => out.push(u8::from(x != 0.0)),
            Dtype::U8 => out.push(x as u8),
            Dtype::I8 => out.extend((x as i8).to_ne_bytes()),
            Dtype::U16 => out.extend((x as u16).to_ne_bytes()),
            Dtype::I16 => out.extend((x as i16).to_ne_bytes()),
            Dtype::U32 => out.extend((x as u32).to_ne_bytes()),
            Dtype::I32 => out.extend((x as i32).to_ne_bytes()),
            Dtype::U64 => out.extend((x as u64).to_ne_bytes()),
            Dtype::I64 => out.extend((x as i64).to_ne_bytes()),
            Dtype::F16 => out.extend(f16::from_f64(x).to_ne_bytes()),
            Dtype::BF16 => out.extend(bf16::from_f64(x).to_ne_bytes()),
            Dtype::F32 => out.extend((x as f32).to_ne_bytes()),
        }
    }

    fn decode(self, bytes: &[u8]) -> f64 {
        let mut word = [0u8; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        // `word` is little-endian on every machine this runs on.
        let bits = u64::from_le_bytes(word);
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => bits as f64,
            Dtype::I8 => f64::from(bits as u8 as i8),
            Dtype::I16 => f64::from(bits as u16 as i16),
            Dtype::I32 => f64::from(bits as u32 as i32),
            Dtype::I64 => bits as i64 as f64,
            Dtype::F16 => f16::from_bits(bits as u16).to_f64(),
            Dtype::BF16 => bf16::from_bits(bits as u16).to_f64(),
            Dtype::F32 => f64::from(f32::from_bits(bits as u32)),
        }
    }
}

/// An array, contiguous in row-major order. Without dimensions it is a scalar.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Element type.
    pub dtype: Dtype,
    /// Lengths of the axes.
    pub shape: Vec<i32>,
    /// The elements, in the machine's byte order.
    pub bytes: Vec<u8>,
}

impl Buffer {
    /// Returns an array of these values, rounded to `dtype` once. `values` must fit the shape.
    #[must_use]
    pub fn new(dtype: Dtype, shape: &[i32], values: impl IntoIterator<Item = f64>) -> Self {
        let mut bytes = Vec::new();
        for x in values {
            dtype.encode(x, &mut bytes);
        }
        Buffer { dtype, shape: shape.to_vec(), bytes }
    }

    /// Returns a float32 array.
    #[must_use]
    pub fn f32(shape: &[i32], values: &[f32]) -> Self {
        Self::new(Dtype::F32, shape, values.iter().map(|&x| f64::from(x)))
    }

    /// Returns an array of zeros.
    #[must_use]
    pub fn zeros(dtype: Dtype, shape: &[i32]) -> Self {
        let bytes = vec![0; elements(shape) * dtype.bytes()];
        Buffer { dtype, shape: shape.to_vec(), bytes }
    }

    /// Returns the values, exact except for 64-bit integers beyond 2^53.
    #[must_use]
    pub fn to_f64(&self) -> Vec<f64> {
        self.bytes.chunks_exact(self.dtype.bytes()).map(|x| self.dtype.decode(x)).collect()
    }

    /// Returns the values as float32.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        self.to_f64().into_iter().map(|x| x as f32).collect()
    }
}

/// Returns the number of elements of an array of this shape.
pub(crate) fn elements(shape: &[i32]) -> usize {
    shape.iter().map(|&d| d.max(0) as usize).product()
}
