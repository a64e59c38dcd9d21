//! Periods: the runs of a leaderboard between two resets. Event time decides the period (invariant 6).

use serde::{Deserialize, Serialize};

use super::clock::Micros;

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

/// One period: from its start (inclusive) to its end (exclusive, `None`: never).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Period {
    /// Inclusive. [`Micros::EPOCH`] for a leaderboard that never resets.
    pub starts_at: Micros,
    /// Exclusive.
    pub ends_at: Option<Micros>,
}

impl Period {
    /// Whether `at` falls in it.
    pub fn contains(&self, at: Micros) -> bool {
        self.ends_at.is_none_or(|end| self.starts_at <= at && at < end)
    }

    /// Whether an event that was received at `received_at` is late for it: a pure function of stored columns, so
    /// a recompute agrees with what happened (fine print 6).
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
#[derive(Debug, Clone)]
pub struct Schedule {
    rule: Rule,
    zone: jiff::tz::TimeZone,
}

#[derive(Debug, Clone)]
enum Rule {
    Never,
    Daily,
    Weekly,
    Monthly,
    Cron(Box<cronexpr::Crontab>),
}

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
            Reset::Cron(expression) => {
                let bad = |e: cronexpr::Error| ScheduleError::BadCron(expression.clone(), e.to_string());
                let crontab = cronexpr::parse_crontab(&format!("{expression} {time_zone}")).map_err(bad)?;
                crontab.find_next(cronexpr::MakeTimestamp(jiff::Timestamp::UNIX_EPOCH)).map_err(bad)?;
                Rule::Cron(Box::new(crontab))
            }
        };
        Ok(Self { rule, zone })
    }

    /// The period in which `at` falls.
    pub fn period_at(&self, at: Micros) -> Period {
        use jiff::{ToSpan, Unit, civil::Weekday};
        let whole = Period { starts_at: Micros::EPOCH, ends_at: None };
        let local = at.to_timestamp().to_zoned(self.zone.clone());
        let date = local.date();
        let (first, length) = match &self.rule {
            Rule::Never => return whole,
            Rule::Cron(crontab) => return cron_period(crontab, at).unwrap_or(whole),
            Rule::Daily => (date, 1.day()),
            Rule::Weekly => {
                let back = date.weekday().since(Weekday::Monday);
                (date.saturating_sub(i64::from(back).days()), 7.days())
            }
            Rule::Monthly => (date.first_of_month(), 1.month()),
        };
        debug_assert!(length.total((Unit::Day, first)).is_ok());
        // A midnight that a DST change skips begins at the first moment of that day.
        let midnight = |day: jiff::civil::Date| day.to_zoned(self.zone.clone()).map(|z| Micros::from(z.timestamp()));
        match (midnight(first), midnight(first.saturating_add(length))) {
            (Ok(starts_at), Ok(end)) => Period { starts_at, ends_at: Some(end) },
            // Out of the calendar's range: a single period is the only answer that loses nothing.
            _ => whole,
        }
    }
}

/// How far back to look for the previous moment of a cron expression, in seconds: from a minute's to a leap day's.
const LOOK_BACK_SECONDS: [i64; 6] = [3_600, 86_400, 8 * 86_400, 32 * 86_400, 367 * 86_400, 9 * 366 * 86_400];

fn cron_period(crontab: &cronexpr::Crontab, at: Micros) -> Option<Period> {
    let next = |after: Micros| -> Option<Micros> {
        crontab.find_next(cronexpr::MakeTimestamp(after.to_timestamp())).ok().map(|z| z.timestamp().into())
    };
    let ends_at = next(at)?;
    for seconds in LOOK_BACK_SECONDS {
        let mut previous = None;
        let mut cursor = at.plus_seconds(-seconds);
        while let Some(moment) = next(cursor).filter(|m| *m <= at) {
            previous = Some(moment);
            cursor = moment;
        }
        if let Some(starts_at) = previous {
            return Some(Period { starts_at, ends_at: Some(ends_at) });
        }
    }
    None
}
