//! Detects NaN and infinity in tensors as they are read.

use safetensors::Dtype;

use super::StoredTensor;

/// Searches for floats whose exponent is all ones, in pieces that hold whole elements.
pub(crate) struct Scan {
    dtype: Dtype,
    active: bool,
    found: bool,
}

impl Scan {
    /// Begins `offset` bytes into a tensor. Nothing is searched if that is inside an element, or if
    /// the dtype is no float.
    pub(crate) fn new(dtype: Dtype, offset: usize) -> Self {
        let size = match dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            _ => 0,
        };
        Self { dtype, active: size != 0 && offset.is_multiple_of(size), found: false }
    }

    /// Searches the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.active && !self.found {
            self.found = match self.dtype {
                Dtype::F32 => any32(bytes),
                Dtype::F16 => any16(bytes, 0x7c00),
                _ => any16(bytes, 0x7f80),
            };
        }
    }

    /// Logs a warning if a value was found.
    pub(crate) fn warn(&self, tensor: &StoredTensor) {
        if self.found {
            let path = tensor.path().display();
            log::warn!("{path}: tensor {} holds NaN or infinity", tensor.name());
        }
    }
}

// Maxima instead of an early exit, so that the compiler vectorizes them.
fn any32(bytes: &[u8]) -> bool {
    let (words, _) = bytes.as_chunks::<4>();
    let largest = words.iter().fold(0, |m, &w| m.max(u32::from_le_bytes(w) & 0x7f80_0000));
    largest == 0x7f80_0000
}

fn any16(bytes: &[u8], exponent: u16) -> bool {
    let (words, _) = bytes.as_chunks::<2>();
    words.iter().fold(0, |m, &w| m.max(u16::from_le_bytes(w) & exponent)) == exponent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(dtype: Dtype, bytes: &[u8]) -> bool {
        let mut scan = Scan::new(dtype, 0);
        scan.feed(bytes);
        scan.found
    }

    #[test]
    fn finds_what_is_not_finite_and_nothing_else() {
        for (value, expected) in
            [(f32::NAN, true), (f32::INFINITY, true), (-f32::INFINITY, true), (f32::MAX, false)]
        {
            let mut floats = vec![1.0_f32; 1000];
            floats[777] = value;
            let bytes: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
            assert_eq!(scan(Dtype::F32, &bytes), expected, "{value}");
        }
        // Largest finite, infinity and a NaN in both half formats.
        for (dtype, word, expected) in [
            (Dtype::F16, 0x7bff_u16, false),
            (Dtype::F16, 0xfc00, true),
            (Dtype::F16, 0x7e00, true),
            (Dtype::BF16, 0x7f7f, false),
            (Dtype::BF16, 0xff80, true),
            (Dtype::BF16, 0x7fc0, true),
            (Dtype::U32, 0xffff, false),
        ] {
            let bytes: Vec<u8> = [0, word].iter().flat_map(|w| w.to_le_bytes()).collect();
            assert_eq!(scan(dtype, &bytes), expected, "{dtype} {word:x}");
        }
    }
}
