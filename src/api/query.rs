//! Query parameters of reading routes.

use std::borrow::Cow;

use axum::http::request::Parts;

use super::problem::Problem;
use crate::domain::clock::Micros;

/// One parameter's value, percent-decoded. The first of that name.
pub fn value<'a>(parts: &'a Parts, name: &str) -> Option<Cow<'a, str>> {
    text(parts.uri.query().unwrap_or_default(), name)
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key, decode(value))
    })
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// Which period of a leaderboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WhichPeriod {
    /// In which now falls.
    #[default]
    Current,
    /// The latest before the current one.
    Previous,
    /// By its id.
    Id(i64),
}

/// What is added to entries, from Postgres (docs/rules.md#no-change-no-publication).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Include {
    /// How many events counted.
    pub plays: bool,
    /// The deciding event's metadata.
    pub metadata: bool,
}

impl Include {
    /// Whether anything is.
    pub const fn any(self) -> bool {
        self.plays || self.metadata
    }
}

/// The parameters of reading routes.
#[derive(Debug, Default)]
pub struct ReadingQuery<'a> {
    /// `period=`; `None`: not given.
    pub period: Option<WhichPeriod>,
    /// `limit=`, 1 to 1000.
    pub limit: Option<usize>,
    /// `cursor=`.
    pub cursor: Option<Cow<'a, str>>,
    /// `include=`.
    pub include: Include,
}

impl<'a> ReadingQuery<'a> {
    /// Reads the parameters; unknown ones are ignored, as caches and proxies add some.
    ///
    /// # Errors
    /// `400` with the parameter's name.
    pub fn parse(query: &'a str) -> Result<Self, Problem> {
        let mut parsed = Self::default();
        for (key, value) in pairs(query) {
            match key {
                "period" => parsed.period = Some(parse_period(&value)?),
                "limit" => parsed.limit = Some(parse_limit(&value)?),
                "cursor" => parsed.cursor = Some(value),
                "include" => parsed.include = parse_include(&value)?,
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// One parameter of a query string, percent-decoded.
pub fn text<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    pairs(query).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// One parameter that is a whole number.
///
/// # Errors
/// `400 number_invalid`.
pub fn number(query: &str, name: &'static str) -> Result<Option<i64>, Problem> {
    let parse = |value: Cow<'_, str>| {
        value.parse().map_err(|_| Problem::bad_request("number_invalid", format!("{name} is a number.")).at(name))
    };
    text(query, name).map(parse).transpose()
}

/// `before=`, a moment.
///
/// # Errors
/// `400 before_invalid`.
pub fn before(query: &str) -> Result<Option<Micros>, Problem> {
    let Some(value) = text(query, "before") else { return Ok(None) };
    let moment = value.parse::<jiff::Timestamp>().ok().and_then(|at| Micros::from_outside(at.as_microsecond()));
    moment.map(Some).ok_or_else(|| {
        Problem::bad_request("before_invalid", "before is a moment, for example 2026-11-21T10:00:00Z.").at("before")
    })
}

/// `limit=`, 1 to 1000.
///
/// # Errors
/// `400 limit_invalid`.
pub fn parse_limit(value: &str) -> Result<usize, Problem> {
    value
        .parse()
        .ok()
        .filter(|limit| (1..=1_000).contains(limit))
        .ok_or_else(|| Problem::bad_request("limit_invalid", "limit is a number from 1 to 1000.").at("limit"))
}

fn parse_period(value: &str) -> Result<WhichPeriod, Problem> {
    match value {
        "current" => Ok(WhichPeriod::Current),
        "previous" => Ok(WhichPeriod::Previous),
        id => id.parse().map(WhichPeriod::Id).map_err(|_| {
            Problem::bad_request("period_invalid", "period is 'current', 'previous' or a period's id.").at("period")
        }),
    }
}

fn parse_include(value: &str) -> Result<Include, Problem> {
    let mut include = Include::default();
    for name in value.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        match name {
            "plays" => include.plays = true,
            "metadata" => include.metadata = true,
            _ => {
                let detail = "include is a list of 'plays' and 'metadata', separated by commas.";
                return Err(Problem::bad_request("include_invalid", detail).at("include"));
            }
        }
    }
    Ok(include)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_checked() {
        let query =
            ReadingQuery::parse("_=1&limit=20&cursor=a%2Bb+c&include=plays%2Cmetadata&period=previous").unwrap();
        assert_eq!(query.limit, Some(20));
        assert_eq!(query.cursor.as_deref(), Some("a+b c"));
        assert!(query.include.plays && query.include.metadata);
        assert_eq!(query.period, Some(WhichPeriod::Previous));
        for bad in ["limit=0", "limit=1001", "limit=x", "period=yesterday", "include=all"] {
            assert!(ReadingQuery::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(decode("%zz%"), "%zz%");
        assert_eq!(decode("%ff"), "\u{fffd}");
    }
}
