//! Identifiers from outside, checked once at the edge: only parsed values go inward (ARCHITECTURE.md#invariants).
//!
//! An identifier is 1 to 128 characters of ASCII letters, digits and `- _ . : @ + = / ~ |`; the
//! values that broken clients send in place of one (`null`, `undefined`, `[object Object]`, the nil UUID, …) are
//! refused by name. What passes is inert in Redis keys, log fields, HTML and SQL parameters.

use std::fmt;
use std::sync::Arc;

/// The longest identifier, in characters (all ASCII, so also bytes).
pub const MAX_ID_LEN: usize = 128;

/// Why a text is no identifier. `code()` is stable and part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdProblem {
    /// Empty, or nothing but white space.
    #[error("must not be empty")]
    Empty,
    /// Longer than [`MAX_ID_LEN`].
    #[error("must be at most 128 characters long")]
    TooLong,
    /// A character outside the stated set.
    #[error("may contain only ASCII letters, digits and - _ . : @ + = / ~ |")]
    BadCharacter,
    /// One of the values that broken clients send for "nothing".
    #[error("is a placeholder for a missing value, not an identifier")]
    Placeholder,
}

/// Values that mean "the client had none". Compared without regard to ASCII case.
const PLACEHOLDERS: [&str; 7] =
    ["null", "undefined", "nil", "none", "nan", "00000000-0000-0000-0000-000000000000", "[object object]"];

const fn allowed_bytes() -> [bool; 256] {
    let mut table = [false; 256];
    let mut b = 0usize;
    while b < 256 {
        let c = b as u8;
        table[b] = c.is_ascii_alphanumeric()
            || matches!(c, b'-' | b'_' | b'.' | b':' | b'@' | b'+' | b'=' | b'/' | b'~' | b'|');
        b += 1;
    }
    table
}

static ALLOWED: [bool; 256] = allowed_bytes();

/// Checks that `text` is an identifier.
///
/// # Errors
/// The first [`IdProblem`] found, most telling first.
pub fn check_identifier(text: &str) -> Result<(), IdProblem> {
    let bytes = text.as_bytes();
    if bytes.is_empty() || text.trim().is_empty() {
        return Err(IdProblem::Empty);
    }
    if bytes.len() > MAX_ID_LEN {
        return Err(IdProblem::TooLong);
    }
    if PLACEHOLDERS.iter().any(|p| p.len() == bytes.len() && p.eq_ignore_ascii_case(text)) {
        return Err(IdProblem::Placeholder);
    }
    if !bytes.iter().all(|&b| ALLOWED[b as usize]) {
        return Err(IdProblem::BadCharacter);
    }
    Ok(())
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses outside text.
            ///
            /// # Errors
            /// See [`check_identifier`].
            pub fn parse(text: &str) -> Result<Self, IdProblem> {
                check_identifier(text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

identifier! {
    /// A player, opaque text chosen by the game.
    PlayerId
}
identifier! {
    /// What kind of thing happened, for example `game_ended`.
    EventType
}

/// A name in a URL: 1 to 64 of lower-case letters, digits, `-` and `_`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Slug(Arc<str>);

impl Slug {
    /// Parses outside text.
    ///
    /// # Errors
    /// [`IdProblem::Empty`], [`IdProblem::TooLong`] or [`IdProblem::BadCharacter`].
    pub fn parse(text: &str) -> Result<Self, IdProblem> {
        let bytes = text.as_bytes();
        match bytes.first() {
            None => return Err(IdProblem::Empty),
            Some(b'-' | b'_') => return Err(IdProblem::BadCharacter),
            Some(_) => {}
        }
        if bytes.len() > 64 {
            return Err(IdProblem::TooLong);
        }
        if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_')) {
            return Err(IdProblem::BadCharacter);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Equal to its text in hash and order, so that a map by slug is looked up by text without allocating.
impl std::borrow::Borrow<str> for Slug {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Slug {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        Self::parse(&text).map_err(|_| {
            serde::de::Error::custom(
                "a slug is 1 to 64 of lower-case letters, digits, '-' and '_', beginning with a letter or digit",
            )
        })
    }
}

/// A game's number in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct GameId(pub i32);

/// One definition of one leaderboard in the database (`leaderboard_generations.id`). An edit that changes what
/// counts makes a new one, so facts, periods and entries of different definitions never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct BoardGenerationId(pub i32);

impl fmt::Display for GameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BoardGenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_identifiers_pass() {
        for id in ["p-17", "018f3b5e-7d1a-7c3e-9a55-1f2e3d4c5b6a", "user@example.org", "a", &"x".repeat(128)] {
            assert_eq!(check_identifier(id), Ok(()), "{id}");
        }
    }

    #[test]
    fn what_broken_clients_send_is_refused_by_name() {
        for id in ["null", "NULL", "undefined", "nil", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(check_identifier(id), Err(IdProblem::Placeholder), "{id}");
        }
        assert_eq!(check_identifier("[object Object]"), Err(IdProblem::Placeholder));
    }

    #[test]
    fn hostile_characters_are_refused() {
        for id in ["a b", "a\nb", "a*b", "{x}", "<b>", "é", "a\0b", "'; --", "a\"b"] {
            assert_eq!(check_identifier(id), Err(IdProblem::BadCharacter), "{id:?}");
        }
        assert_eq!(check_identifier(""), Err(IdProblem::Empty));
        assert_eq!(check_identifier("  "), Err(IdProblem::Empty));
        assert_eq!(check_identifier(&"x".repeat(129)), Err(IdProblem::TooLong));
    }
}
