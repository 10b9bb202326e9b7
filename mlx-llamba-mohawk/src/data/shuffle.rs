//! The order of an epoch, which depends only on the seed and the number of the epoch.

/// A stream of random numbers (splitmix64; Steele, Lea and Flood 2014). It is the same on every
/// machine and in every version, which resumed runs depend on.
pub(crate) struct Stream(u64);

impl Stream {
    /// Returns the stream that some numbers identify.
    pub(crate) fn new(names: &[u64]) -> Self {
        let mut stream = Self(0x6d6f_6861_776b);
        for &name in names {
            stream.0 = stream.next() ^ name;
        }
        stream
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`, uniformly distributed to within `n / 2^64`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

/// Returns the numbers below `n` in random order (Fisher and Yates).
pub(crate) fn permutation(n: u32, stream: &mut Stream) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, stream.below(i as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_whole_and_differ_by_name() {
        let order = |names: &[u64]| permutation(1000, &mut Stream::new(names));
        let first = order(&[1, 0]);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<u32>>());
        assert_eq!(first, order(&[1, 0]));
        for other in [[1, 1], [0, 1], [2, 0]] {
            let order = order(&other);
            let same = first.iter().zip(order).filter(|(a, b)| **a == *b).count();
            assert!(same < 10, "{other:?}: {same}");
        }
        // The stream must never change: saved runs continue with it.
        assert_eq!(permutation(8, &mut Stream::new(&[7, 3])), [0, 4, 5, 2, 7, 3, 6, 1]);
    }

    #[test]
    fn all_places_are_equally_likely() {
        let mut counts = [0u32; 5];
        for name in 0..5000 {
            let order = permutation(5, &mut Stream::new(&[name]));
            counts[order.iter().position(|&i| i == 0).unwrap_or(0)] += 1;
        }
        assert!(counts.iter().all(|&count| (900..1100).contains(&count)), "{counts:?}");
    }
}
