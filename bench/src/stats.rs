//! Medians, spreads, percentiles. A median needs no distribution, and one bad repetition does not move it.

/// What repeated samples say.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Summary {
    /// The middle sample (mean of the two middle ones).
    pub median: f64,
    /// The least sample.
    pub min: f64,
    /// The greatest sample.
    pub max: f64,
    /// How many samples.
    pub count: usize,
}

impl Summary {
    /// Of `samples`; `None` when there is none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { median: f64::midpoint(low, high), min, max, count: sorted.len() })
    }

    /// Distance of the extremes, as a part of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / self.median.abs() }
    }
}

/// The sample below which the part `p` (0 to 1) of `sorted` lies; 0 when there is none.
#[must_use]
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (p.clamp(0.0, 1.0) * last as f64).round() as usize;
    sorted.get(index).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_spread_is_relative() {
        let summary = Summary::of(&[3.0, 1.0, 2.0]).expect("three samples");
        assert_eq!((summary.median, summary.min, summary.max), (2.0, 1.0, 3.0));
        assert_eq!(summary.spread(), 1.0);
        assert_eq!(Summary::of(&[1.0, 2.0]).expect("two").median, 1.5);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn percentiles_are_samples() {
        let sorted: Vec<f64> = (0..=1000).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 0.5), 500.0);
        assert_eq!(percentile(&sorted, 0.999), 999.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
