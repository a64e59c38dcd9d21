//! What ratios that were measured by turns say: their median, and an interval that does not assume a distribution.

use serde::Serialize;

use super::report::median;

/// A regression is an interval that lies wholly above this ratio.
pub const TOLERANCE: f64 = 1.03;
/// A wider interval says nothing: the machine was too noisy, or there were too few turns.
pub const WIDEST: f64 = 0.06;
/// How often an interval may miss the true ratio.
const MISSES: f64 = 0.05;

/// Ratios of one figure over all turns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// The median of the turns' ratios.
    pub median: f64,
    /// The lower end of the 95 % interval.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// What a ratio means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not shown to cost more than [`TOLERANCE`].
    NoRegression,
    /// The interval is wider than [`WIDEST`].
    NotMeasured,
    /// The whole interval is above [`TOLERANCE`].
    Regression,
}

impl Verdict {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoRegression => "no regression",
            Self::NotMeasured => "not measured (too wide)",
            Self::Regression => "REGRESSION",
        }
    }
}

impl Ratio {
    /// The ratios of pairs that were measured next to each other; all must be positive. `None` when there are too few
    /// for an interval (fewer than six).
    ///
    /// The interval is Wilcoxon's: means of all pairs of logarithms, with as many cut off at each end as the exact
    /// distribution of the signed-rank statistic allows. One wild turn does not move it far.
    pub fn of(ratios: &[f64]) -> Option<Self> {
        let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let cut = cut_off(logs.len())?;
        let mut means = Vec::with_capacity(logs.len() * (logs.len() + 1) / 2);
        for (i, a) in logs.iter().enumerate() {
            means.extend(logs[i..].iter().map(|b| f64::midpoint(*a, *b)));
        }
        means.sort_by(f64::total_cmp);
        let (low, high) = (means[cut], means[means.len() - 1 - cut]);
        Some(Self { median: median(ratios), low: low.exp(), high: high.exp() })
    }

    /// What it means.
    pub fn verdict(self) -> Verdict {
        if self.high - self.low > WIDEST {
            Verdict::NotMeasured
        } else if self.low > TOLERANCE {
            Verdict::Regression
        } else {
            Verdict::NoRegression
        }
    }
}

/// How many means are cut off at each end for `n` ratios: the largest `k` for which both tails of the signed-rank
/// distribution up to `k - 1` hold at most [`MISSES`]. `None`: not even the whole range is sure enough.
fn cut_off(n: usize) -> Option<usize> {
    // ways[s]: how many subsets of 1..=n have the sum s.
    let mut ways = vec![0f64; n * (n + 1) / 2 + 1];
    ways[0] = 1.0;
    for rank in 1..=n {
        for sum in (rank..ways.len()).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    let all = 2f64.powi(i32::try_from(n).ok()?);
    let mut tail = 0.0;
    let allowed = ways.iter().take_while(|ways| {
        tail += **ways;
        2.0 * tail / all <= MISSES
    });
    allowed.count().checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn as_many_means_are_cut_off_as_the_tables_say() {
        // Critical values of the two-sided signed-rank test at 5 %, as printed in textbooks.
        for (n, critical) in [(6, 0), (8, 3), (10, 8), (12, 13), (20, 52)] {
            assert_eq!(cut_off(n), Some(critical), "{n}");
        }
        assert_eq!(cut_off(5), None);
    }

    #[test]
    fn an_interval_holds_the_true_ratio_nineteen_times_in_twenty() {
        let mut random = SmallRng::seed_from_u64(5);
        let held = (0..2_000)
            .filter(|_| {
                let ratios: Vec<f64> = (0..8).map(|_| 1.02 * (1.0 + random.random_range(-0.05..0.05))).collect();
                Ratio::of(&ratios).is_some_and(|r| r.low <= 1.02 && 1.02 <= r.high)
            })
            .count();
        assert!((1_860..2_000).contains(&held), "{held}");
    }

    #[test]
    fn verdicts_follow_the_interval() {
        let of = |ratios: [f64; 8]| Ratio::of(&ratios).map(Ratio::verdict);
        assert_eq!(of([1.0, 1.01, 0.99, 1.0, 1.0, 1.01, 0.99, 1.0]), Some(Verdict::NoRegression));
        assert_eq!(of([1.05, 1.06, 1.05, 1.04, 1.05, 1.06, 1.05, 1.05]), Some(Verdict::Regression));
        assert_eq!(of([1.0, 1.2, 0.9, 1.1, 1.3, 0.8, 1.0, 1.1]), Some(Verdict::NotMeasured));
        assert_eq!(Ratio::of(&[1.0; 5]), None);
    }
}
