//! K-quants: super-blocks of 256 values whose blocks have quantized scales of their own.
//!
//! They become float32 values: MLX's groups have one scale for 32 values or more, and a Q6_K block
//! has 16. Source: the formats of ggml (`ggml-quants.c`).

use half::f16;

/// The number of values in a super-block.
pub(super) const SUPER: usize = 256;
/// The sizes of the super-blocks of Q2_K to Q6_K in bytes.
pub(super) const BYTES: [usize; 5] = [84, 110, 144, 176, 210];

fn float(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Adds the values of a Q2_K super-block: scales and minima of 16 blocks in 4 bits each, codes of 2 bits, f16
/// scale, f16 minimum.
pub(super) fn q2(block: &[u8], values: &mut Vec<f32>) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, least) = (float(&block[80..]), float(&block[82..]));
    for (i, code) in two_bits(codes).enumerate() {
        let scale = scales[i / 16];
        values.push(d * f32::from(scale & 15) * f32::from(code) - least * f32::from(scale >> 4));
    }
}

/// Adds the values of a Q3_K super-block: third bits of the codes, which are negative without it, the lower
/// two, scales of 16 blocks in 6 bits each, f16 scale.
pub(super) fn q3(block: &[u8], values: &mut Vec<f32>) {
    let (high, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = float(&block[108..]);
    for (i, code) in two_bits(codes).enumerate() {
        let j = i / 16;
        let low = scales[j % 8] >> (j / 8 * 4) & 15;
        let scale = f32::from(low | (scales[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32.0;
        let absent = high[i % 32] >> (i / 32) & 1 == 0;
        values.push(d * scale * (f32::from(code) - if absent { 4.0 } else { 0.0 }));
    }
}

/// The 256 codes of 2 bits in 64 bytes: 32 bytes hold four rows of 32 values.
fn two_bits(codes: &[u8]) -> impl Iterator<Item = u8> {
    (0..SUPER).map(|i| codes[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3)
}

/// Returns the 6-bit scale and minimum of block `j` of 8, from 12 bytes.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => (
            packed[j + 4] & 15 | (packed[j - 4] >> 6) << 4,
            packed[j + 4] >> 4 | (packed[j] >> 6) << 4,
        ),
    };
    (f32::from(scale), f32::from(minimum))
}

/// Adds the values of a Q4_K super-block: f16 scale, f16 minimum, scales and minima of 8 blocks,
/// codes of 4 bits.
pub(super) fn q4(block: &[u8], values: &mut Vec<f32>) {
    with_minima(&block[..16], &block[16..], |_, _| 0, values);
}

/// Adds the values of a Q5_K super-block: as Q4_K, with the codes' fifth bits before the others.
pub(super) fn q5(block: &[u8], values: &mut Vec<f32>) {
    let high = &block[16..48];
    with_minima(&block[..16], &block[48..], |j, i| (high[i] >> j & 1) << 4, values);
}

/// `high` gives the bits above the lower four of value `i` of block `j`.
fn with_minima(
    head: &[u8],
    codes: &[u8],
    high: impl Fn(usize, usize) -> u8,
    values: &mut Vec<f32>,
) {
    let (d, least) = (float(head), float(&head[2..]));
    for j in 0..8 {
        let (scale, minimum) = scale_and_minimum(&head[4..], j);
        let pair = &codes[j / 2 * 32..][..32];
        let shift = j % 2 * 4;
        let value = |(i, byte): (usize, &u8)| {
            let code = byte >> shift & 15 | high(j, i);
            d * scale * f32::from(code) - least * minimum
        };
        values.extend(pair.iter().enumerate().map(value));
    }
}

/// Adds the values of a Q6_K super-block: lower four and upper two bits of the codes, signed
/// scales of 16 blocks, f16 scale.
pub(super) fn q6(block: &[u8], values: &mut Vec<f32>) {
    let (low, high, scales, d) =
        (&block[..128], &block[128..192], &block[192..208], float(&block[208..]));
    for j in 0..8 {
        // A half of the super-block has four rows of 32 values.
        let (half, row) = (j / 4, j % 4);
        for i in 0..32 {
            let nibble = low[64 * half + row % 2 * 32 + i] >> (row / 2 * 4) & 15;
            let code = nibble | (high[32 * half + i] >> (2 * row) & 3) << 4;
            let scale = f32::from(scales[2 * j + i / 16].cast_signed());
            values.push(d * scale * (f32::from(code) - 32.0));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use safetensors::SafeTensors;

    use super::*;

    type Unpack = fn(&[u8], &mut Vec<f32>);

    #[test]
    fn values_are_those_of_ggml() {
        let file = include_bytes!("../../tests/fixtures/kquants.safetensors");
        let file = SafeTensors::deserialize(file).unwrap();
        let kinds: [(&str, Unpack); 5] =
            [("Q2_K", q2), ("Q3_K", q3), ("Q4_K", q4), ("Q5_K", q5), ("Q6_K", q6)];
        for ((name, unpack), bytes) in kinds.into_iter().zip(BYTES) {
            let stored = file.tensor(&format!("{name}.bytes")).unwrap();
            let mut found = Vec::new();
            stored.data().chunks_exact(bytes).for_each(|block| unpack(block, &mut found));
            let expected = file.tensor(&format!("{name}.values")).unwrap();
            let (words, _) = expected.data().as_chunks::<4>();
            assert_eq!(found.len(), words.len());
            for (i, (found, word)) in found.iter().zip(words).enumerate() {
                let expected = f32::from_le_bytes(*word);
                assert!(
                    (found - expected).abs() <= 1e-6 * expected.abs(),
                    "{name} {i}: {found}, not {expected}"
                );
            }
        }
    }
}
