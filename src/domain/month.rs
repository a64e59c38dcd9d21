//! Calendar months in UTC: what a partition of the events table holds.

use super::clock::Micros;

/// A calendar month in UTC, from year 1 to 9998.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    year: i16,
    month: i8,
}

impl Month {
    /// The month in which `at` falls. Outside the years 1 to 9998: the nearest month within.
    pub fn of(at: Micros) -> Self {
        let date = at.to_timestamp().to_zoned(jiff::tz::TimeZone::UTC).date();
        match date.year() {
            year @ 1..=9998 => Self { year, month: date.month() },
            year if year < 1 => Self { year: 1, month: 1 },
            _ => Self { year: 9998, month: 12 },
        }
    }

    /// The month after this one.
    #[must_use]
    pub fn next(self) -> Self {
        if self.month == 12 {
            Self { year: self.year.saturating_add(1).min(9998), month: 1 }
        } else {
            Self { year: self.year, month: self.month + 1 }
        }
    }

    /// Its first moment.
    pub fn starts_at(self) -> Micros {
        // `month` is within 1..=12 and `year` within the calendar by construction.
        let days = jiff::civil::Date::new(self.year, self.month, 1)
            .and_then(|first| first.to_zoned(jiff::tz::TimeZone::UTC))
            .map(|first| first.timestamp());
        days.map_or(Micros::EPOCH, Micros::from)
    }

    /// Whether its last day is 29 February.
    pub fn ends_with_a_leap_day(self) -> bool {
        self.month == 2 && jiff::civil::Date::constant(self.year, 1, 1).in_leap_year()
    }

    /// The first moment after it.
    pub fn ends_at(self) -> Micros {
        self.next().starts_at()
    }

    /// The months from the one of `from` to the one of `to`, both included.
    pub fn span(from: Micros, to: Micros) -> impl Iterator<Item = Self> {
        let last = Self::of(to);
        std::iter::successors(Some(Self::of(from)), |month| Some(month.next())).take_while(move |month| *month <= last)
    }

    /// The name of its partition: `events_YYYY_MM`. Digits only beside the fixed text, so it is safe in DDL.
    pub fn partition_name(self) -> String {
        format!("events_{:04}_{:02}", self.year, self.month)
    }

    /// Reads a partition's name back; `None` when it is none of ours.
    pub fn from_partition_name(name: &str) -> Option<Self> {
        let (year, month) = name.strip_prefix("events_")?.split_once('_')?;
        let digits = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(year, 4) || !digits(month, 2) {
            return None;
        }
        let (year, month) = (year.parse().ok()?, month.parse().ok()?);
        ((1..=9998).contains(&year) && (1..=12).contains(&month)).then_some(Self { year, month })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Micros {
        text.parse::<jiff::Timestamp>().unwrap().into()
    }

    #[test]
    fn a_month_begins_and_ends_in_utc() {
        let february = Month::of(at("2028-02-29T23:59:59.999999Z"));
        assert_eq!(february.partition_name(), "events_2028_02");
        assert_eq!(february.starts_at(), at("2028-02-01T00:00:00Z"));
        assert_eq!(february.ends_at(), at("2028-03-01T00:00:00Z"));
        assert_eq!(Month::of(at("2026-12-31T23:59:59Z")).next().partition_name(), "events_2027_01");
    }

    #[test]
    fn only_names_of_partitions_read_back() {
        for name in ["events_2026_13", "events_2026_00", "events_26_01", "events_2026_1", "events_+026_01", "x", ""] {
            assert_eq!(Month::from_partition_name(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_month_contains_its_moment_and_its_name_reads_back(micros in -60_000_000_000_000_000i64..250_000_000_000_000_000) {
            let month = Month::of(Micros(micros));
            prop_assert!(month.starts_at().0 <= micros && micros < month.ends_at().0);
            prop_assert_eq!(Month::from_partition_name(&month.partition_name()), Some(month));
            prop_assert_eq!(Month::of(month.ends_at()), month.next());
        }
    }
}
