//! Pieces of several sources by ratio.

use std::ops::Range;

use super::shuffle::{Stream, permutation};

/// The pieces that make up an epoch: all of the source of which there is least beside its weight, and of
/// each other as many as the weights ask for. No piece of a source is read again before all of them are.
#[derive(Debug)]
pub(super) struct Mix(Vec<Share>);

#[derive(Debug)]
struct Share {
    pieces: Range<u32>,
    /// The pieces of an epoch, which is not a whole number.
    per_epoch: f64,
}

impl Mix {
    /// Mixes sources with these pieces, tokens and weights, all above 0.
    pub(super) fn new(sources: &[(Range<u32>, u64, f64)]) -> Self {
        let rate = |tokens: u64, weight: f64| weight / tokens as f64;
        let most =
            sources.iter().map(|&(_, tokens, weight)| rate(tokens, weight)).fold(0.0, f64::max);
        let share = |&(ref pieces, tokens, weight): &(Range<u32>, u64, f64)| Share {
            pieces: pieces.clone(),
            per_epoch: rate(tokens, weight) / most * pieces.len() as f64,
        };
        Self(sources.iter().map(share).collect())
    }

    /// Returns the pieces of an epoch, source by source. They depend on `names`, the epoch and the sources.
    pub(super) fn epoch(&self, names: &[u64], number: u64) -> Vec<u32> {
        let mut chosen = Vec::new();
        for (i, Share { pieces, per_epoch }) in (0..).zip(&self.0) {
            let count = pieces.len() as u64;
            let before = |number: u64| (number as f64 * per_epoch) as u64;
            let mut pass = (u64::MAX, Vec::new());
            for place in before(number)..before(number + 1) {
                if pass.0 != place / count {
                    let names = [names, &[i, place / count]].concat();
                    pass = (place / count, permutation(count as u32, &mut Stream::new(&names)));
                }
                chosen.push(pieces.start + pass.1[(place % count) as usize]);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_over_many_epochs() {
        // Tokens of 3 pieces and of 10; the second source is wanted half as often.
        let mix = Mix::new(&[(0..3, 300, 2.0), (3..13, 400, 1.0)]);
        let mut counts = [0; 13];
        for epoch in 0..80 {
            let chosen = mix.epoch(&[1], epoch);
            assert_eq!(chosen, mix.epoch(&[1], epoch));
            let mut first: Vec<u32> = chosen.iter().copied().filter(|&piece| piece < 3).collect();
            first.sort_unstable();
            assert_eq!(first, [0, 1, 2]);
            chosen.iter().for_each(|&piece| counts[piece as usize] += 1);
        }
        // 150 of 400 tokens an epoch: each of ten pieces in 30 of 80 epochs.
        assert_eq!(counts[..3], [80; 3]);
        assert_eq!(counts[3..], [30; 10]);
        assert_ne!(mix.epoch(&[1], 0), mix.epoch(&[2], 0));
    }
}
