//! What valid JSON a payload may not hold, found without building a tree (docs/rules.md#payloads-stay-byte-for-byte).
//!
//! Postgres `json` keeps the client's bytes, so everything that Postgres or a later reader would choke on is refused
//! here, for that event alone: U+0000, lone surrogates, duplicate keys, nesting over 64, numbers over 64 characters or
//! with an exponent beyond ±308.

use std::borrow::Cow;

/// The deepest nesting of objects and arrays; the payload itself is the first level.
pub const MAX_DEPTH: usize = 64;
/// The longest number, in characters.
pub const MAX_NUMBER_LEN: usize = 64;
/// The greatest exponent of a number, either sign.
pub const MAX_EXPONENT: u32 = 308;

/// Why a payload is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PayloadProblem {
    /// Not a JSON object.
    #[error("must be a JSON object")]
    NotAnObject,
    /// `\u0000`, which no Postgres text can hold.
    #[error("must not contain U+0000")]
    NullCharacter,
    /// Half of a surrogate pair.
    #[error("must not contain a lone surrogate")]
    LoneSurrogate,
    /// One name twice in one object: readers would disagree on which counts.
    #[error("must not name the same member twice")]
    DuplicateKey,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("must not be nested deeper than 64 levels")]
    TooDeep,
    /// A number longer than [`MAX_NUMBER_LEN`] or with an exponent beyond [`MAX_EXPONENT`].
    #[error("must not contain a number of more than 64 characters or with an exponent beyond ±308")]
    NumberOutOfRange,
    /// Not JSON at all. Cannot happen to text that a JSON parser has passed.
    #[error("must be valid JSON")]
    Damaged,
}

/// A reusable checker: its scratch space is kept from one payload to the next.
#[derive(Debug, Default)]
pub struct PayloadChecker {
    /// Names of the open objects, innermost last, as byte ranges of the text without their quotes.
    names: Vec<(u32, u32)>,
}

/// An open object or array.
#[derive(Clone, Copy, Default)]
struct Level {
    object: bool,
    /// Whether a name of this object is written with an escape, so that names must be decoded to be compared.
    escaped: bool,
    /// Where its names begin in `names`.
    base: usize,
}

impl PayloadChecker {
    /// Checks `json`, the text of one JSON value.
    ///
    /// # Errors
    /// The first [`PayloadProblem`] found. Names are compared when their object ends.
    pub fn check(&mut self, json: &str) -> Result<(), PayloadProblem> {
        self.names.clear();
        let bytes = json.as_bytes();
        let start = bytes.iter().position(|b| !b.is_ascii_whitespace()).ok_or(PayloadProblem::Damaged)?;
        if bytes[start] != b'{' {
            return Err(PayloadProblem::NotAnObject);
        }
        self.walk(json, start)
    }

    fn walk(&mut self, json: &str, start: usize) -> Result<(), PayloadProblem> {
        let bytes = json.as_bytes();
        let mut levels = [Level::default(); MAX_DEPTH];
        let mut depth = 0usize;
        let mut name_next = false;
        let mut at = start;
        loop {
            match *bytes.get(at).ok_or(PayloadProblem::Damaged)? {
                open @ (b'{' | b'[') => {
                    let level = levels.get_mut(depth).ok_or(PayloadProblem::TooDeep)?;
                    *level = Level { object: open == b'{', escaped: false, base: self.names.len() };
                    depth += 1;
                    name_next = open == b'{';
                    at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1).ok_or(PayloadProblem::Damaged)?;
                    self.close(json, levels[depth])?;
                    if depth == 0 {
                        return Ok(());
                    }
                    name_next = false;
                    at += 1;
                }
                b'"' => {
                    let (end, escaped) = check_string(bytes, at)?;
                    if name_next {
                        self.names.push((at as u32 + 1, end as u32 - 1));
                        levels[depth - 1].escaped |= escaped;
                        name_next = false;
                    }
                    at = end;
                }
                b',' => {
                    name_next = depth > 0 && levels[depth - 1].object;
                    at += 1;
                }
                b'-' | b'0'..=b'9' => at = check_number(bytes, at)?,
                _ => at += 1,
            }
        }
    }

    /// Looks for a name that the object which ends here has twice.
    fn close(&mut self, json: &str, level: Level) -> Result<(), PayloadProblem> {
        let bytes = json.as_bytes();
        let names = self.names.get_mut(level.base..).unwrap_or_default();
        let text = |range: (u32, u32)| bytes.get(range.0 as usize..range.1 as usize).unwrap_or_default();
        let twice = if level.escaped {
            decoded_twice(json, names)?
        } else if names.len() <= 8 {
            names.iter().enumerate().any(|(i, a)| names[..i].iter().any(|b| text(*a) == text(*b)))
        } else {
            names.sort_unstable_by(|a, b| text(*a).cmp(text(*b)));
            names.windows(2).any(|pair| text(pair[0]) == text(pair[1]))
        };
        self.names.truncate(level.base);
        if twice { Err(PayloadProblem::DuplicateKey) } else { Ok(()) }
    }
}

fn decoded_twice(json: &str, names: &[(u32, u32)]) -> Result<bool, PayloadProblem> {
    let mut decoded = Vec::with_capacity(names.len());
    for &(from, to) in names {
        let raw = json.get(from as usize..to as usize).ok_or(PayloadProblem::Damaged)?;
        decoded.push(if raw.contains('\\') {
            let quoted = json.get(from as usize - 1..to as usize + 1).ok_or(PayloadProblem::Damaged)?;
            Cow::Owned(serde_json::from_str::<String>(quoted).map_err(|_| PayloadProblem::Damaged)?)
        } else {
            Cow::Borrowed(raw)
        });
    }
    decoded.sort_unstable();
    Ok(decoded.windows(2).any(|pair| pair[0] == pair[1]))
}

/// Checks the string whose opening quote is at `at`: the index after it, and whether it has an escape.
fn check_string(bytes: &[u8], at: usize) -> Result<(usize, bool), PayloadProblem> {
    let mut i = at + 1;
    let mut escaped = false;
    loop {
        match *bytes.get(i).ok_or(PayloadProblem::Damaged)? {
            b'"' => return Ok((i + 1, escaped)),
            b'\\' => {
                escaped = true;
                i = check_escape(bytes, i)?;
            }
            0 => return Err(PayloadProblem::NullCharacter),
            _ => i += 1,
        }
    }
}

/// Checks the escape whose backslash is at `at`: the index after it.
fn check_escape(bytes: &[u8], at: usize) -> Result<usize, PayloadProblem> {
    if *bytes.get(at + 1).ok_or(PayloadProblem::Damaged)? != b'u' {
        return Ok(at + 2);
    }
    match unit(bytes, at)? {
        0 => Err(PayloadProblem::NullCharacter),
        0xDC00..=0xDFFF => Err(PayloadProblem::LoneSurrogate),
        0xD800..=0xDBFF => {
            let paired = bytes.get(at + 6) == Some(&b'\\')
                && bytes.get(at + 7) == Some(&b'u')
                && matches!(unit(bytes, at + 6)?, 0xDC00..=0xDFFF);
            if paired { Ok(at + 12) } else { Err(PayloadProblem::LoneSurrogate) }
        }
        _ => Ok(at + 6),
    }
}

/// The UTF-16 unit of the escape `\uXXXX` at `at`.
fn unit(bytes: &[u8], at: usize) -> Result<u16, PayloadProblem> {
    let digits = bytes.get(at + 2..at + 6).ok_or(PayloadProblem::Damaged)?;
    digits.iter().try_fold(0u16, |value, &digit| {
        let nibble = (digit as char).to_digit(16).ok_or(PayloadProblem::Damaged)?;
        Ok(value << 4 | nibble as u16)
    })
}

/// Checks the number that begins at `at`: the index after it.
fn check_number(bytes: &[u8], at: usize) -> Result<usize, PayloadProblem> {
    let mut end = at;
    let mut exponent_at = None;
    while let Some(&b) = bytes.get(end) {
        match b {
            b'0'..=b'9' | b'-' | b'+' | b'.' => {}
            b'e' | b'E' => exponent_at = Some(end + 1),
            _ => break,
        }
        end += 1;
    }
    if end - at > MAX_NUMBER_LEN {
        return Err(PayloadProblem::NumberOutOfRange);
    }
    let Some(exponent_at) = exponent_at else { return Ok(end) };
    // At most 64 digits, so this stops early rather than overflow.
    let mut exponent = 0u32;
    for digit in bytes[exponent_at..end].iter().filter(|b| b.is_ascii_digit()) {
        exponent = exponent.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    }
    if exponent > MAX_EXPONENT { Err(PayloadProblem::NumberOutOfRange) } else { Ok(end) }
}

#[cfg(test)]
#[path = "payload_check_tests.rs"]
mod tests;
