//! The key that a request presents.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The longest key that is looked at.
const MAX_KEY_LEN: usize = 256;

/// Why a request presents no key that could be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoCredentials {
    /// No `Authorization` with a key.
    Missing,
    /// Something that no key can be.
    Unusable,
}

/// The key in `Authorization: Bearer KEY`, or the user name of HTTP Basic (the Segment convention).
///
/// # Errors
/// [`NoCredentials`].
pub fn presented_key(headers: &HeaderMap) -> Result<Cow<'_, str>, NoCredentials> {
    let value = headers.get(header::AUTHORIZATION).ok_or(NoCredentials::Missing)?;
    let text = value.to_str().map_err(|_| NoCredentials::Unusable)?;
    let (scheme, rest) = text.split_once(' ').ok_or(NoCredentials::Missing)?;
    let rest = rest.trim();
    let key = if scheme.eq_ignore_ascii_case("bearer") {
        Cow::Borrowed(rest)
    } else if scheme.eq_ignore_ascii_case("basic") {
        let decoded = STANDARD.decode(rest).map_err(|_| NoCredentials::Unusable)?;
        let mut pair = String::from_utf8(decoded).map_err(|_| NoCredentials::Unusable)?;
        pair.truncate(pair.find(':').unwrap_or(pair.len()));
        Cow::Owned(pair)
    } else {
        return Err(NoCredentials::Missing);
    };
    match key.len() {
        0 => Err(NoCredentials::Missing),
        1..=MAX_KEY_LEN => Ok(key),
        _ => Err(NoCredentials::Unusable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_as_bearer_or_as_basic_user_name() {
        let presented = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            presented_key(&headers).map(Cow::into_owned)
        };
        for value in ["Bearer k", "bearer  k ", "Basic azpz", "basic azo=", "BASIC aw=="] {
            assert_eq!(presented(value), Ok("k".to_owned()), "{value}");
        }
        for value in ["x", "Bearer", "Bearer ", "Digest k", "Basic Og=="] {
            assert_eq!(presented(value), Err(NoCredentials::Missing), "{value}");
        }
        for value in ["Basic !", "Basic /w==", &format!("Bearer {}", "k".repeat(MAX_KEY_LEN + 1))] {
            assert_eq!(presented(value), Err(NoCredentials::Unusable), "{value}");
        }
        assert_eq!(presented_key(&HeaderMap::new()), Err(NoCredentials::Missing));
    }
}
