//! Stops runs whose loss explodes or is not finite.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The number of previous losses to keep for each part.
const REMEMBERED: usize = 64;
/// The smallest number of losses for a median.
const ENOUGH: usize = 8;

/// The previous losses of each part, with which the next ones are compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Watch(Vec<Seen>);

/// The losses of a part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    /// The first loss of the stage. A loss below it is no explosion: small losses vary by large
    /// factors.
    first: f32,
    /// The previous losses.
    last: Vec<f32>,
}

/// The origin of a loss in a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) stage: &'a str,
    pub(crate) step: u64,
    pub(crate) part: usize,
    /// The first parameter that the part trains.
    pub(crate) parameter: &'a str,
}

impl Watch {
    /// Checks a loss and the norm of its gradient.
    ///
    /// # Errors
    /// [`Error::NotFinite`]; [`Error::Exploded`] if the loss exceeds `factor` times the median of the
    /// previous ones, and the first one.
    pub(crate) fn check(
        &mut self,
        place: Place<'_>,
        loss: f32,
        norm: f32,
        factor: f64,
    ) -> Result<()> {
        let Place { stage, step, part, parameter } = place;
        for (what, value) in [("loss", loss), ("gradient's norm", norm)] {
            if !value.is_finite() {
                let (stage, parameter) = (stage.to_owned(), parameter.to_owned());
                return Err(Error::NotFinite { what, value, stage, step, part, parameter });
            }
        }
        if self.0.len() <= part {
            self.0.resize(part + 1, Seen::default());
        }
        let Seen { first, last } = &mut self.0[part];
        if last.is_empty() {
            *first = loss;
        }
        let mut sorted = last.clone();
        sorted.sort_by(f32::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(loss);
        let far = f64::from(loss) > factor * f64::from(median) && loss > *first;
        if sorted.len() >= ENOUGH && far {
            let (stage, parameter) = (stage.to_owned(), parameter.to_owned());
            return Err(Error::Exploded { loss, median, stage, step, part, parameter });
        }
        last.push(loss);
        let old = last.len().saturating_sub(REMEMBERED);
        last.drain(..old);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn place(step: u64) -> Place<'static> {
        Place { stage: "alignment", step, part: 2, parameter: "layers.2.w" }
    }

    #[test]
    fn explosions_and_what_is_no_number() {
        let mut watch = Watch::default();
        for step in 0..ENOUGH as u64 {
            watch.check(place(step), 1.0 + step as f32, 9e9, 10.0).unwrap();
        }
        // The median is 5.
        watch.check(place(20), 49.0, 1.0, 10.0).unwrap();
        let error = watch.check(place(21), 51.0, 1.0, 10.0).unwrap_err().to_string();
        for part in ["alignment", "step 21", "part 2", "layers.2.w", "51", "5"] {
            assert!(error.contains(part), "{error}");
        }
        for (loss, norm, what) in
            [(f32::NAN, 1.0, "loss is NaN"), (1.0, f32::INFINITY, "gradient's norm is inf")]
        {
            let error = watch.check(place(22), loss, norm, 10.0).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("step 22"), "{error}");
        }
    }

    #[test]
    fn a_small_loss_may_jump_up_to_where_it_began() {
        let mut watch = Watch::default();
        watch.check(place(0), 4.0, 1.0, 10.0).unwrap();
        (0..99).for_each(|_| watch.check(place(1), 1e-4, 1.0, 10.0).unwrap());
        watch.check(place(2), 3.9, 1.0, 10.0).unwrap();
        assert!(watch.check(place(3), 4.1, 1.0, 10.0).is_err());
    }

    #[test]
    fn parts_are_held_against_themselves() {
        let mut watch = Watch::default();
        let other = Place { part: 0, ..place(0) };
        (0..99).for_each(|_| watch.check(other, 1.0, 1.0, 10.0).unwrap());
        watch.check(place(0), 1000.0, 1.0, 10.0).unwrap();
        assert_eq!(watch.0[0].last.len(), REMEMBERED);
    }
}
