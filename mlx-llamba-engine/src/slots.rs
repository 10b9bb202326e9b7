//! The number of continuations computed at once.

use std::time::Duration;

use crate::options::Options;

/// A step after which more continuations may join: each of them gets ten tokens per second.
const SHORT: Duration = Duration::from_millis(100);
/// A step after which fewer may join.
const LONG: Duration = Duration::from_millis(300);

/// The continuations that may be computed at once.
pub(crate) struct Slots {
    /// The present number.
    open: usize,
    /// The largest number: what the memory for states allows.
    most: usize,
    /// The number does not change.
    fixed: bool,
}

impl Slots {
    pub(crate) fn new(most: usize, fixed: bool) -> Self {
        let open = if fixed { most } else { most.min(Options::FIRST_ROWS) };
        Self { open, most, fixed }
    }

    /// Returns true if `more` continuations may join `rows` others. A request with more than the
    /// present number has the batch for itself.
    pub(crate) fn fit(&self, rows: usize, more: usize) -> bool {
        rows + more <= self.open || rows == 0
    }

    /// Takes notice of the time of a step with `rows` continuations.
    pub(crate) fn adapt(&mut self, rows: usize, time: Duration) {
        if self.fixed {
            return;
        }
        if rows >= self.open && time < SHORT {
            self.open = self.most.min(2 * self.open);
        } else if time > LONG {
            self.open = (self.open * 3 / 4).max(self.most.min(Options::FIRST_ROWS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_steps_let_more_join_and_long_ones_fewer() {
        let millis = Duration::from_millis;
        let mut slots = Slots::new(200, false);
        assert!(slots.fit(63, 1) && !slots.fit(64, 1) && slots.fit(0, 200));
        slots.adapt(63, millis(1)); // not full
        slots.adapt(64, millis(150)); // neither short nor long
        assert!(!slots.fit(64, 1));
        slots.adapt(64, millis(20));
        assert!(slots.fit(127, 1) && !slots.fit(128, 1));
        slots.adapt(128, millis(20));
        assert!(slots.fit(199, 1) && !slots.fit(200, 1));
        (0..9).for_each(|_| slots.adapt(200, millis(400)));
        assert!(slots.fit(63, 1) && !slots.fit(64, 1));
        let mut fixed = Slots::new(16, true);
        fixed.adapt(16, millis(1));
        assert!(fixed.fit(15, 1) && !fixed.fit(16, 1));
        // Memory for less than the usual number.
        assert!(!Slots::new(8, false).fit(8, 1));
    }
}
