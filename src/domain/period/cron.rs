//! Cron expressions over local time: at which moments one fires, whatever the zone does to its clocks.
//!
//! A moment fires when clocks show a time that the expression names. When clocks change, an expression that also fires
//! within as long a time before, and after, goes by what they show: an hour that comes twice has its resets twice, and
//! one that is skipped has none. Any other fires once: at the first of two, or when the clocks skip its time.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use super::{Period, ScheduleError};
use crate::domain::clock::Micros;

/// Compiles an expression as if its times were UTC's: what the zone's clocks do is up to this module (cronexpr's own
/// answers around a change of clocks depend on where the search begins).
pub(super) fn compile(expression: &str) -> Result<cronexpr::Crontab, ScheduleError> {
    let bad = |message: &str| ScheduleError::BadCron(expression.to_owned(), message.to_owned());
    let fields: Vec<&str> = expression.split_ascii_whitespace().collect();
    let &[_, _, day_of_month, _, day_of_week] = fields.as_slice() else {
        return Err(bad("five fields are needed: minute, hour, day of month, month, day of week"));
    };
    // cronexpr compares month numbers to find a month's last day, so `L` never fires in December.
    if [day_of_month, day_of_week].iter().any(|field| field.contains(['L', 'l'])) {
        return Err(bad("'L' is not supported"));
    }
    let crontab =
        cronexpr::parse_crontab(&format!("{expression} UTC")).map_err(|error| bad(&reason(&error.to_string())))?;
    next_named(&crontab, jiff::civil::date(2000, 1, 1).at(0, 0, 0, 0)).ok_or_else(|| bad("it names no moment"))?;
    Ok(crontab)
}

/// Why the expression cannot be read: what the parser says, without the drawing of it and the zone that we added.
fn reason(message: &str) -> String {
    message.rsplit_once("^ ").map_or("it cannot be read".to_owned(), |(_, reason)| reason.replace("..=", " to "))
}

/// The first local time after `after` that the expression names. cronexpr searches four years at a time; leap days
/// may be eight years apart.
fn next_named(crontab: &cronexpr::Crontab, after: DateTime) -> Option<DateTime> {
    // A little under four years, so that no leap day falls between two searches.
    (0..3).find_map(|i| {
        let from = Offset::UTC.to_timestamp(after.checked_add((i * 1_459).days()).ok()?).ok()?;
        crontab.find_next(cronexpr::MakeTimestamp(from)).ok().map(|found| found.datetime())
    })
}

/// How far back to look for the previous moment of an expression, in hours: from a minute's to a leap day's.
const LOOK_BACK_HOURS: [i64; 6] = [1, 24, 8 * 24, 32 * 24, 367 * 24, 9 * 366 * 24];

/// The period in which `at` falls: from the last moment that fires to the next. `None`: out of the calendar's range.
pub(super) fn period(crontab: &cronexpr::Crontab, zone: &TimeZone, at: Micros) -> Option<Period> {
    let at = at.to_timestamp();
    for hours in LOOK_BACK_HOURS {
        let mut starts_at = None;
        let mut moment = next_moment(crontab, zone, at.checked_sub(hours.hours()).ok()?)?;
        while moment <= at {
            starts_at = Some(moment);
            moment = next_moment(crontab, zone, moment)?;
        }
        if let Some(starts_at) = starts_at {
            return Some(Period { starts_at: starts_at.into(), ends_at: Some(moment.into()) });
        }
    }
    None
}

/// The first moment after `after` that fires.
fn next_moment(crontab: &cronexpr::Crontab, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut offset = zone.to_offset(after);
    // Local times up to here have fired, or are another change's matter.
    let mut done = match second_pass(crontab, zone, after) {
        Some(ends) => ends.checked_sub(MICRO).ok()?.max(offset.to_datetime(after)),
        None => offset.to_datetime(after),
    };
    let mut changes = zone.following(after);
    loop {
        let moment = offset.to_timestamp(next_named(crontab, done)?).ok()?;
        let Some(change) = changes.next() else { return Some(moment) };
        if moment < change.timestamp() {
            return Some(moment);
        }
        let change = Change { at: change.timestamp(), before: offset, after: change.offset() };
        if change.fires_itself(crontab)? {
            return Some(change.at);
        }
        offset = change.after;
        done = change.first_to_fire(crontab)?.checked_sub(MICRO).ok()?;
    }
}

/// The smallest step: names are whole minutes, so just before one is before it.
const MICRO: SignedDuration = SignedDuration::from_micros(1);

/// No clocks are set by more.
const LONGEST_CHANGE: SignedDuration = SignedDuration::from_hours(48);

/// Where `moment` is in a second pass that does not fire: the local time at which that ends.
fn second_pass(crontab: &cronexpr::Crontab, zone: &TimeZone, moment: Timestamp) -> Option<DateTime> {
    let just_after = moment.checked_add(MICRO).ok()?;
    let change = zone.preceding(just_after).next()?;
    if moment.duration_since(change.timestamp()) > LONGEST_CHANGE {
        return None;
    }
    let before = zone.to_offset(change.timestamp().checked_sub(MICRO).ok()?);
    Change { at: change.timestamp(), before, after: change.offset() }.first_to_fire(crontab)
}

/// A change of a zone's clocks.
#[derive(Debug, Clone, Copy)]
struct Change {
    at: Timestamp,
    before: Offset,
    after: Offset,
}

impl Change {
    /// What clocks show around it: the times that are repeated or skipped lie from the first to the second.
    fn shown(&self) -> (DateTime, DateTime) {
        let (before, after) = (self.before.to_datetime(self.at), self.after.to_datetime(self.at));
        (before.min(after), before.max(after))
    }

    /// Whether the expression fires in as long a time before the repeated or skipped one, and in as long a time after.
    fn goes_by_the_clock(&self, crontab: &cronexpr::Crontab) -> Option<bool> {
        let (from, to) = self.shown();
        let long = to.duration_since(from);
        let fires = |from: DateTime, to: DateTime| Some(next_named(crontab, from.checked_sub(MICRO).ok()?)? < to);
        Some(fires(from.checked_sub(long).ok()?, from)? && fires(to, to.checked_add(long).ok()?)?)
    }

    /// Whether the change stands for times that it skips.
    fn fires_itself(&self, crontab: &cronexpr::Crontab) -> Option<bool> {
        let (from, to) = self.shown();
        if self.after <= self.before || next_named(crontab, from.checked_sub(MICRO).ok()?)? >= to {
            // What clocks show right after it may be named as well, and fires as any other time.
            return Some(false);
        }
        Some(!self.goes_by_the_clock(crontab)?)
    }

    /// From which local time on names fire after it.
    fn first_to_fire(&self, crontab: &cronexpr::Crontab) -> Option<DateTime> {
        let (from, to) = self.shown();
        let again = self.after < self.before && self.goes_by_the_clock(crontab)?;
        Some(if again { from } else { to })
    }
}
