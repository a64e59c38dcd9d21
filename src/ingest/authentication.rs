//! Whose request it is.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::directory::{Directory, KeyEntry};

/// The longest key that is looked at.
const MAX_KEY_LEN: usize = 256;

/// Why a request has no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unauthenticated {
    /// No `Authorization` with a key.
    NoKey,
    /// A key that does not exist, or no longer.
    UnknownKey,
}

/// Finds the key of a request: `Authorization: Bearer KEY`, or HTTP Basic with the key as user name.
///
/// Keys are looked up by their SHA-256, so how long the look-up takes tells nothing of a key: whoever could choose the
/// hash's bytes one by one could invert SHA-256.
///
/// # Errors
/// [`Unauthenticated`].
pub fn authenticate(headers: &HeaderMap, directory: &Directory) -> Result<KeyEntry, Unauthenticated> {
    let value = headers.get(header::AUTHORIZATION).ok_or(Unauthenticated::NoKey)?;
    let text = value.to_str().map_err(|_| Unauthenticated::UnknownKey)?;
    let (scheme, rest) = text.split_once(' ').ok_or(Unauthenticated::NoKey)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return look_up(rest, directory);
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = STANDARD.decode(rest).map_err(|_| Unauthenticated::UnknownKey)?;
        let pair = String::from_utf8(decoded).map_err(|_| Unauthenticated::UnknownKey)?;
        return look_up(pair.split(':').next().unwrap_or_default(), directory);
    }
    Err(Unauthenticated::NoKey)
}

fn look_up(key: &str, directory: &Directory) -> Result<KeyEntry, Unauthenticated> {
    if key.is_empty() {
        return Err(Unauthenticated::NoKey);
    }
    if key.len() > MAX_KEY_LEN {
        return Err(Unauthenticated::UnknownKey);
    }
    let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
    directory.keys.get(&hash).cloned().ok_or(Unauthenticated::UnknownKey)
}
