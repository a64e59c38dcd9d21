//! From an event to what it means to a leaderboard: matching, extraction and bounds.
//!
//! The same code serves the worker, the recompute and the audit; SQL never reads a payload
//! (docs/rules.md#payloads-stay-byte-for-byte).

use super::board::{BoardGeneration, ScoreSource};
use super::fact::MAX_METADATA_BYTES;
use super::json::{BadPointer, Pointer};

/// What an event's payload gives one leaderboard (the event's type has matched already).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extraction<'a> {
    /// A usable score.
    Score {
        /// The score.
        score: i64,
        /// The subscore, 0 when the definition has none.
        subscore: i64,
        /// JSON text to keep with the entry.
        metadata: Option<&'a str>,
    },
    /// The conditions do not hold: the event does not concern this leaderboard.
    NoMatch,
    /// There is no integral number in `i64` where a score should be: no fact, warning `score_unusable`.
    Unusable,
    /// Outside `min_score..=max_score`: no fact, warning `score_out_of_bounds`.
    OutOfBounds,
}

#[derive(Debug, Clone)]
enum Source {
    Constant(i64),
    Pointer(Pointer),
}

/// A definition's payload rules, compiled once.
#[derive(Debug, Clone)]
pub struct Extractor {
    score: Source,
    subscore: Source,
    metadata: Option<Pointer>,
    conditions: Vec<(Pointer, Vec<serde_json::Value>)>,
    bounds: (i64, i64),
    server_only: bool,
}

impl Extractor {
    /// Compiles the rules of a board.
    ///
    /// # Errors
    /// [`BadPointer`] when a pointer does not parse; definitions are checked on their way in, so this means damage.
    pub fn compile(spec: &super::board::LeaderboardSpec) -> Result<Self, BadPointer> {
        let definition = &spec.definition;
        let source = |s: &ScoreSource| {
            Ok(match s {
                ScoreSource::Constant(value) => Source::Constant(*value),
                ScoreSource::Pointer(text) => Source::Pointer(Pointer::parse(text)?),
            })
        };
        let conditions = definition
            .matches
            .iter()
            .map(|m| Ok((Pointer::parse(&m.pointer)?, m.equals.iter().chain(&m.any_of).cloned().collect())))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            score: source(&definition.score)?,
            subscore: definition.subscore.as_ref().map_or(Ok(Source::Constant(0)), source)?,
            metadata: definition.metadata.as_deref().map(Pointer::parse).transpose()?,
            conditions,
            bounds: (definition.min_score.unwrap_or(i64::MIN), definition.max_score.unwrap_or(i64::MAX)),
            server_only: spec.server_only,
        })
    }

    /// Compiles the rules of a generation.
    ///
    /// # Errors
    /// See [`Extractor::compile`].
    pub fn of(generation: &BoardGeneration) -> Result<Self, BadPointer> {
        Self::compile(&generation.spec)
    }

    /// What `payload` (valid JSON text) gives. `from_server`: whether a server key sent the event.
    pub fn extract<'a>(&self, payload: &'a str, from_server: bool) -> Extraction<'a> {
        if self.server_only && !from_server {
            return Extraction::NoMatch;
        }
        for (pointer, values) in &self.conditions {
            let holds = pointer.find(payload).is_some_and(|raw| {
                serde_json::from_str::<serde_json::Value>(raw)
                    .is_ok_and(|found| values.iter().any(|v| equal(v, &found)))
            });
            if !holds {
                return Extraction::NoMatch;
            }
        }
        let Some(score) = read(&self.score, payload) else { return Extraction::Unusable };
        let Some(subscore) = read(&self.subscore, payload) else { return Extraction::Unusable };
        if score < self.bounds.0 || score > self.bounds.1 {
            return Extraction::OutOfBounds;
        }
        let metadata = self.metadata.as_ref().and_then(|p| p.find(payload)).filter(|m| m.len() <= MAX_METADATA_BYTES);
        Extraction::Score { score, subscore, metadata }
    }
}

/// Numbers are equal by value (`1` and `1.0`), everything else by structure.
fn equal(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(x), Some(y)) if a.as_i64().is_none() || b.as_i64().is_none() => x == y,
        _ => a == b,
    }
}

fn read(source: &Source, payload: &str) -> Option<i64> {
    match source {
        Source::Constant(value) => Some(*value),
        Source::Pointer(pointer) => pointer.find(payload).and_then(integral),
    }
}

/// Reads a JSON number that has an integral value in `i64`: `42`, `4200.0`, `1e3`, `-0`; exact, without floating
/// point. Anything else (`1.5`, `"42"`, `1e19`) is `None`.
pub fn integral(raw: &str) -> Option<i64> {
    if let Ok(value) = raw.parse::<i64>() {
        return (!raw.starts_with('+')).then_some(value);
    }
    let (negative, digits) = raw.strip_prefix('-').map_or((false, raw), |rest| (true, rest));
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], digits[at + 1..].parse::<i32>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all: String = [whole, fraction].concat();
    let significant = all.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // value = significant × 10^zeros
    let trailing = all.len() - all.trim_end_matches('0').len();
    let zeros = i64::from(exponent) - fraction.len() as i64 + trailing as i64;
    if !(0..=19).contains(&zeros) || significant.len() > 19 {
        return None;
    }
    let value = significant.parse::<i128>().ok()?.checked_mul(10i128.checked_pow(zeros as u32)?)?;
    i64::try_from(if negative { -value } else { value }).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integral_values_count_however_they_are_written() {
        for (raw, value) in [
            ("42", 42),
            ("4200.0", 4200),
            ("1e3", 1000),
            ("1.5e1", 15),
            ("-0", 0),
            ("-0.0", 0),
            ("0e400", 0),
            ("1200e-2", 12),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("9223372036854775807.0", i64::MAX),
        ] {
            assert_eq!(integral(raw), Some(value), "{raw}");
        }
        for raw in ["1.5", "1e-1", "\"42\"", "9223372036854775808", "1e19", "1e308", "null", "true", "", "{}", "+1"] {
            assert_eq!(integral(raw), None, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn every_i64_reads_back(value: i64) {
            prop_assert_eq!(integral(&value.to_string()), Some(value));
            let with_fraction = format!("{value}.000");
            prop_assert_eq!(integral(&with_fraction), Some(value));
        }

        #[test]
        fn integral_never_panics(raw in "[-+0-9.eE]{0,80}") {
            let _ = integral(&raw);
        }
    }
}
