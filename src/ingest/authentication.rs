//! Whose request it is.

use axum::http::HeaderMap;

use crate::directory::{Directory, KeyEntry};
use crate::http::credentials::{NoCredentials, presented_key};

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
/// # Errors
/// [`Unauthenticated`].
pub fn authenticate(headers: &HeaderMap, directory: &Directory) -> Result<KeyEntry, Unauthenticated> {
    let key = presented_key(headers).map_err(|why| match why {
        NoCredentials::Missing => Unauthenticated::NoKey,
        NoCredentials::Unusable => Unauthenticated::UnknownKey,
    })?;
    directory.authenticate(&key).cloned().ok_or(Unauthenticated::UnknownKey)
}
