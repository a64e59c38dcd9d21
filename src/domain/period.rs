//! Periods: the runs of a leaderboard between two resets. Event time decides the period
//! (ARCHITECTURE.md#invariants).

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::clock::Micros;

mod cron;

/// When a new period begins, in the leaderboard's time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Reset {
    /// One period for ever.
    #[default]
    Never,
    /// At midnight.
    Daily,
    /// On Mondays at midnight.
    Weekly,
    /// On the first of the month at midnight.
    Monthly,
    /// At each moment that a five-field cron expression names: `{"cron":"0 4 * * FRI"}`.
    Cron(String),
}

/// One period: from its start (inclusive) to its end (exclusive, `None`: never). Both name it: an edit of the schedule
/// makes periods that share a start and not an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    /// Inclusive. [`Micros::EPOCH`] for a leaderboard that never resets.
    pub starts_at: Micros,
    /// Exclusive.
    pub ends_at: Option<Micros>,
}

impl Period {
    /// The only period of a leaderboard that never resets.
    pub const WHOLE: Self = Self { starts_at: Micros::EPOCH, ends_at: None };

    /// How stored bytes write an end that never comes.
    const NEVER: i64 = i64::MAX;

    /// As 16 stored bytes: start and end in µs since the epoch, little-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        let end = self.ends_at.map_or(Self::NEVER, |end| end.0);
        (u128::from(self.starts_at.0.cast_unsigned()) | u128::from(end.cast_unsigned()) << 64).to_le_bytes()
    }

    /// The inverse of [`Period::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_le_bytes(bytes);
        let (start, end) = ((both as u64).cast_signed(), ((both >> 64) as u64).cast_signed());
        Self { starts_at: Micros(start), ends_at: (end != Self::NEVER).then_some(Micros(end)) }
    }

    /// Whether `at` falls in it.
    pub fn contains(&self, at: Micros) -> bool {
        self.ends_at.is_none_or(|end| self.starts_at <= at && at < end)
    }

    /// Whether an event that was received at `received_at` is late for it: a pure function of stored columns, so
    /// a recompute agrees with what happened (docs/rules.md#stored-columns-decide-lateness).
    pub fn is_late(&self, received_at: Micros, grace_seconds: u32) -> bool {
        self.ends_at.is_some_and(|end| received_at > end.plus_seconds(i64::from(grace_seconds)))
    }
}

/// Why a schedule is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// No such IANA time zone.
    #[error("unknown time zone {0:?}")]
    UnknownTimeZone(String),
    /// The cron expression does not parse or names no moment.
    #[error("unusable cron expression {0:?}: {1}")]
    BadCron(String, String),
}

/// A reset schedule, compiled once.
///
/// Its periods tile time: each moment falls in exactly one, whatever a time zone does to its clocks.
#[derive(Debug, Clone)]
pub struct Schedule {
    rule: Rule,
    zone: jiff::tz::TimeZone,
    /// Periods met lately, in order: calendar arithmetic costs a microsecond and more, and nearly every event falls
    /// in the period of the one before.
    met: Arc<ArcSwap<Vec<Period>>>,
}

#[derive(Debug, Clone)]
enum Rule {
    Never,
    Daily,
    Weekly,
    Monthly,
    Cron(Box<cronexpr::Crontab>),
}

/// How many periods a schedule remembers.
const REMEMBERED: usize = 64;

impl Schedule {
    /// Compiles a reset and its time zone.
    ///
    /// # Errors
    /// [`ScheduleError`] when the zone is unknown, or the cron expression does not parse or never fires.
    pub fn compile(reset: &Reset, time_zone: &str) -> Result<Self, ScheduleError> {
        let zone =
            jiff::tz::TimeZone::get(time_zone).map_err(|_| ScheduleError::UnknownTimeZone(time_zone.to_owned()))?;
        let rule = match reset {
            Reset::Never => Rule::Never,
            Reset::Daily => Rule::Daily,
            Reset::Weekly => Rule::Weekly,
            Reset::Monthly => Rule::Monthly,
            Reset::Cron(expression) => Rule::Cron(Box::new(cron::compile(expression)?)),
        };
        Ok(Self { rule, zone, met: Arc::default() })
    }

    /// The period in which `at` falls.
    pub fn period_at(&self, at: Micros) -> Period {
        if matches!(self.rule, Rule::Never) {
            return Period::WHOLE;
        }
        let met = self.met.load();
        let index = met.partition_point(|period| period.starts_at <= at);
        if let Some(period) = index.checked_sub(1).and_then(|i| met.get(i)).filter(|period| period.contains(at)) {
            return *period;
        }
        let period = self.compute(at);
        let mut more = if met.len() < REMEMBERED { met.to_vec() } else { Vec::new() };
        let index = more.partition_point(|other| other.starts_at <= period.starts_at);
        more.insert(index, period);
        // Two threads may overwrite each other's addition: it is a cache.
        self.met.store(Arc::new(more));
        period
    }

    fn compute(&self, at: Micros) -> Period {
        use jiff::{ToSpan, civil::Weekday};
        if let Rule::Cron(crontab) = &self.rule {
            return cron::period(crontab, &self.zone, at).unwrap_or(Period::WHOLE);
        }
        let date = at.to_timestamp().to_zoned(self.zone.clone()).date();
        let (first, length) = match &self.rule {
            Rule::Weekly => {
                let back = date.weekday().since(Weekday::Monday);
                (date.saturating_sub(i64::from(back).days()), 7.days())
            }
            Rule::Monthly => (date.first_of_month(), 1.month()),
            Rule::Never | Rule::Daily | Rule::Cron(_) => (date, 1.day()),
        };
        let midnight = |day: jiff::civil::Date| first_moment(&self.zone, day.at(0, 0, 0, 0));
        let period = |day: jiff::civil::Date| {
            let ends_at = midnight(day.saturating_add(length));
            midnight(day).map_or(Period::WHOLE, |starts_at| Period { starts_at, ends_at })
        };
        let mut found = period(first);
        // Clocks set back over midnight (00:01 to 23:01) show yesterday's date after today has begun.
        if found.ends_at.is_some_and(|end| end <= at) {
            found = period(first.saturating_add(length));
        } else if at < found.starts_at {
            found = period(first.saturating_sub(length));
        }
        // Out of the calendar's range: a single period is the only answer that loses nothing.
        if found.ends_at.is_some() && found.contains(at) { found } else { Period::WHOLE }
    }
}

/// The first moment at which clocks in `zone` show `local` or later: of a time that comes twice the first, of a time
/// that is skipped the change of the clocks. Never earlier for a later `local`, which is what makes periods tile.
fn first_moment(zone: &jiff::tz::TimeZone, local: jiff::civil::DateTime) -> Option<Micros> {
    use jiff::tz::AmbiguousOffset;
    let moment = match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok()?,
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok()?,
        AmbiguousOffset::Gap { before, .. } => {
            let after_change = before.to_timestamp(local).ok()?;
            let just_after = after_change.checked_add(jiff::SignedDuration::from_micros(1)).ok()?;
            zone.preceding(just_after).next()?.timestamp()
        }
    };
    Some(moment.into())
}

#[cfg(test)]
#[path = "period_tests.rs"]
mod tests;
