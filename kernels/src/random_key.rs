//! Keys of MLX's random generator, without a graph.

/// A key of MLX's random generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomKey(pub [u32; 2]);

impl RandomKey {
    /// Returns the key that `mlx.random.key` makes of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self([(seed >> 32) as u32, seed as u32])
    }

    /// Returns the `count` keys that `mlx.random.split` makes of the key.
    #[must_use]
    pub fn split(self, count: u32) -> Vec<Self> {
        // A generator's words are numbered; a block has two that are half their number apart.
        let blocks: Vec<[u32; 2]> = (0..count).map(|i| self.block([i, count + i])).collect();
        let words: Vec<u32> = [0, 1]
            .into_iter()
            .flat_map(|half| blocks.iter().map(move |block| block[half]))
            .collect();
        words.chunks_exact(2).map(|pair| Self([pair[0], pair[1]])).collect()
    }

    /// Threefry-2x32 with 20 rounds.
    ///
    /// Source: Salmon et al., SC 2011, doi 10.1145/2063384.2063405.
    fn block(self, counter: [u32; 2]) -> [u32; 2] {
        let [a, b] = self.0;
        let keys = [a, b, a ^ b ^ 0x1BD1_1BDA];
        let turns = [[13, 15, 26, 6], [17, 29, 16, 24]];
        let (mut x, mut y) = (counter[0].wrapping_add(a), counter[1].wrapping_add(b));
        for round in 0..5 {
            for turn in turns[round % 2] {
                x = x.wrapping_add(y);
                y = y.rotate_left(turn) ^ x;
            }
            x = x.wrapping_add(keys[(round + 1) % 3]);
            y = y.wrapping_add(keys[(round + 2) % 3]).wrapping_add(round as u32 + 1);
        }
        [x, y]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mlx_rs::{Array, random};

    use super::RandomKey;

    fn words(key: &Array) -> Vec<u32> {
        key.contiguous().unwrap().to_vec_exact().unwrap()
    }

    #[test]
    fn keys_are_those_of_mlx() {
        for seed in [0, 7, 1 << 32, u64::MAX - 1] {
            let key = RandomKey::new(seed);
            assert_eq!(key.0.to_vec(), words(&random::key(seed).unwrap()), "{seed}");
            for count in [2, 3, 257] {
                let of_mlx = Array::from_slice(&key.0, &[2]);
                let (first, second) = random::split(&of_mlx, count).unwrap();

                let found = key.split(count as u32);

                assert_eq!(found.len(), count as usize);
                assert_eq!(found[0].0.to_vec(), words(&first), "{seed} in {count}");
                assert_eq!(found[1].0.to_vec(), words(&second), "{seed} in {count}");
            }
        }
    }
}
