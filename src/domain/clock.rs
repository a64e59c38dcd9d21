//! Time as a value: microseconds since the Unix epoch, UTC; and a clock as a parameter.

use std::sync::Arc;

use super::rfc3339;

/// Microseconds since the Unix epoch, UTC. The resolution of `occurred_at`, `received_at` and `reached_at`, and
/// of Postgres's `timestamptz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub i64);

/// Seconds between the Unix epoch and Postgres's (2000-01-01), for its binary format.
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;

impl Micros {
    /// The Unix epoch: where the only period of a leaderboard that never resets begins.
    pub const EPOCH: Self = Self(0);

    /// Microseconds that somebody sent: `None` when they are no moment of the years 1 to 9999, which is what calendars
    /// here and in Postgres can tell.
    pub const fn from_outside(micros: i64) -> Option<Self> {
        const YEAR_1: i64 = -62_135_596_800 * 1_000_000;
        const YEAR_10_000: i64 = 253_402_300_800 * 1_000_000;
        if micros >= YEAR_1 && micros < YEAR_10_000 { Some(Self(micros)) } else { None }
    }

    /// From whole seconds since the Unix epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds * 1_000_000)
    }

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis * 1_000)
    }

    /// Microseconds since 2000-01-01, as Postgres's binary `timestamptz` counts.
    pub const fn to_postgres(self) -> i64 {
        self.0 - POSTGRES_EPOCH_SECONDS * 1_000_000
    }

    /// The inverse of [`Micros::to_postgres`].
    pub const fn from_postgres(micros: i64) -> Self {
        Self(micros + POSTGRES_EPOCH_SECONDS * 1_000_000)
    }

    /// This moment moved by `seconds` (negative: earlier), saturating.
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }

    /// Microseconds from `earlier` to this moment (negative when it is later).
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// RFC 3339 in UTC, with as many fractional digits as it needs.
    pub fn rfc3339(self) -> rfc3339::Text {
        rfc3339::write(self)
    }

    /// The same moment for calendar arithmetic. Out of jiff's range (year ±9999): clamped to it.
    pub fn to_timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl From<jiff::Timestamp> for Micros {
    fn from(t: jiff::Timestamp) -> Self {
        Self(t.as_microsecond())
    }
}

/// RFC 3339 in UTC, with as many fractional digits as it needs.
impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

impl serde::Serialize for Micros {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.rfc3339())
    }
}

impl<'de> serde::Deserialize<'de> for Micros {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse::<jiff::Timestamp>().map(Self::from).map_err(serde::de::Error::custom)
    }
}

/// Where the program gets the time from. Real in processes (`runtime::clock`), fixed or stepped in tests.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Micros + Send + Sync>);

impl Clock {
    /// A clock that asks `now` each time: the machine, a test or a simulation.
    pub fn from_fn(now: impl Fn() -> Micros + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current time.
    pub fn now(&self) -> Micros {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
