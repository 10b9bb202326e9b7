//! The learning rate's schedule: warm-up, stable, decay.

/// Multiplier of the learning rate: it rises linearly, stays at 1, and falls linearly. No step has a
/// rate of 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The number of steps.
    pub steps: u64,
    /// The fraction of steps in which it rises, 0 to 1.
    pub warmup: f64,
    /// The fraction of steps in which it falls, 0 to 1.
    pub decay: f64,
}

impl Schedule {
    /// Returns the multiplier of step `step`, counted from 0: above 0, at most 1.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        let part = |fraction: f64| (fraction * self.steps as f64).round().max(1.0);
        let rising = (step + 1) as f64 / part(self.warmup);
        let falling = self.steps.saturating_sub(step) as f64 / part(self.decay);
        rising.min(falling).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_stays_and_falls() {
        let schedule = Schedule { steps: 20, warmup: 0.2, decay: 0.25 };
        let found: Vec<f64> = (0..20).map(|step| schedule.at(step)).collect();
        let mut expected = vec![0.25, 0.5, 0.75];
        expected.extend([1.0; 13]);
        expected.extend([0.8, 0.6, 0.4, 0.2]);
        assert_eq!(found, expected);
    }

    #[test]
    fn without_ends_it_is_constant() {
        let schedule = Schedule { steps: 3, warmup: 0.0, decay: 0.0 };
        assert_eq!([0, 1, 2].map(|step| schedule.at(step)), [1.0; 3]);
        assert_eq!(Schedule { steps: 1, warmup: 0.5, decay: 0.5 }.at(0), 1.0);
    }
}
