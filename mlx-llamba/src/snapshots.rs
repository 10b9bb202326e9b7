//! Contexts of a conversation to return to, within a memory budget.

use derive_setters::Setters;

use crate::context::Context;
use crate::error::Result;

/// The number of newest snapshots that are evicted last.
const LAST: usize = 4;

/// The memory budget of a session's snapshots.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Setters)]
pub struct SnapshotBudget {
    /// The size of all states together in bytes. A state of the published models has 9 to 34 MiB.
    pub bytes: usize,
}

impl Default for SnapshotBudget {
    /// 512 MiB.
    fn default() -> Self {
        Self { bytes: 512 << 20 }
    }
}

/// Contexts with the numbers of tokens before them, in ascending order.
///
/// When the budget is exceeded, a snapshot is evicted: of all but the first and the last four, the
/// one whose neighbors are closest together relative to their distance from the end. The rest are
/// spaced exponentially: dense near the end, the most frequent target of an undo, and sparse in the
/// distant past. Once only those five are left, the oldest of the last four is evicted first, and
/// the first snapshot last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshots {
    budget: SnapshotBudget,
    kept: Vec<(usize, Context)>,
}

impl Snapshots {
    pub(crate) fn new(budget: SnapshotBudget) -> Self {
        Self { budget, kept: Vec::new() }
    }

    pub(crate) fn set_budget(&mut self, budget: SnapshotBudget) {
        self.budget = budget;
        self.thin();
    }

    pub(crate) fn budget(&self) -> SnapshotBudget {
        self.budget
    }

    /// Keeps `context`, which has consumed `tokens` tokens.
    pub(crate) fn insert(&mut self, tokens: usize, context: &Context) -> Result<()> {
        // A state can be a view of larger arrays, which a copy of it alone does not keep alive.
        let mut context = context.clone();
        context.state = context.state.row(0)?;
        context.state.eval()?;
        let at = self.kept.partition_point(|(other, _)| *other < tokens);
        match self.kept.get_mut(at) {
            Some((other, place)) if *other == tokens => *place = context,
            _ => self.kept.insert(at, (tokens, context)),
        }
        self.thin();
        Ok(())
    }

    /// The last snapshot with at most `tokens` tokens.
    pub(crate) fn before(&self, tokens: usize) -> Option<(usize, &Context)> {
        let end = self.kept.partition_point(|(other, _)| *other <= tokens);
        self.kept[..end].last().map(|(tokens, context)| (*tokens, context))
    }

    /// Drops the snapshots after more than `tokens` tokens.
    pub(crate) fn truncate(&mut self, tokens: usize) {
        self.kept.retain(|(other, _)| *other <= tokens);
    }

    /// The numbers of tokens before the snapshots.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        self.kept.iter().map(|(tokens, _)| *tokens)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &Context)> {
        self.kept.iter().map(|(tokens, context)| (*tokens, context))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.kept.iter().map(|(_, context)| context.state.nbytes()).sum()
    }

    fn thin(&mut self) {
        while self.bytes() > self.budget.bytes && !self.kept.is_empty() {
            let places: Vec<usize> = self.places().collect();
            self.kept.remove(expendable(&places));
        }
    }
}

/// The index of the snapshot to evict, given the ascending numbers of tokens before them.
fn expendable(places: &[usize]) -> usize {
    let end = places.last().copied().unwrap_or(0) as f64;
    let cost = |i: usize| {
        let gap = (places[i + 1] - places[i - 1]) as f64;
        gap / (end - places[i] as f64 + 1.0)
    };
    let inner = 1..places.len().saturating_sub(LAST);
    match inner.min_by(|a, b| cost(*a).total_cmp(&cost(*b))) {
        Some(i) => i,
        // The first and the last few.
        None if places.len() > 2 => 1,
        None => places.len().saturating_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use super::expendable;

    /// The snapshots that are left of `count`, with room for `room`.
    fn kept(count: usize, room: usize) -> Vec<usize> {
        let mut places = Vec::new();
        for i in 1..=count {
            places.push(100 * i);
            while places.len() > room {
                places.remove(expendable(&places));
            }
        }
        places
    }

    #[test]
    fn the_first_the_last_and_exponentially_less_between() {
        let places = kept(1000, 14);
        assert_eq!(places[0], 100);
        assert_eq!(places[10..], [99_700, 99_800, 99_900, 100_000]);
        // Going back any distance re-reads at most about as much as that distance.
        for pair in places[1..10].windows(2) {
            assert!(pair[1] - pair[0] <= 2 * (100_000 - pair[1]) + 200, "{places:?}");
        }
    }

    #[test]
    fn little_room() {
        assert_eq!(kept(9, 4), [100, 700, 800, 900]);
        assert_eq!(kept(9, 2), [100, 900]);
        assert_eq!(kept(9, 1), [100]);
        assert_eq!(kept(9, 0), [0; 0]);
    }
}
