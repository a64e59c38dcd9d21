//! The `Idempotency-Key` of a request, and the receipt that stands under it.

use axum::http::HeaderMap;

use super::body_hash::BodyHash;
use super::receipt::Remembered;
use super::refuse;
use super::wire_event::WireEvent;
use crate::domain::ids::check_identifier;
use crate::http::problem::Problem;
use crate::queue::enqueue::ReceiptName;

const MIN_IDEMPOTENCY_KEY_LEN: usize = 16;

/// A body with an `Idempotency-Key`.
pub(super) struct Keyed<'a> {
    pub name: ReceiptName<'a>,
    pub body: &'a [u8],
    pub hash: BodyHash,
}

/// The key that a request has in its headers.
///
/// # Errors
/// The refusal of a key that cannot be one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().map_err(|_| refuse::bad_idempotency_key())?;
    // The header is a structured string in the IETF draft, and bare in practice.
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    if text.len() < MIN_IDEMPOTENCY_KEY_LEN || check_identifier(text).is_err() {
        return Err(refuse::bad_idempotency_key());
    }
    Ok(Some(text))
}

/// Reads the receipt that stands under an `Idempotency-Key`, if it is of this body.
///
/// # Errors
/// The refusal of a receipt that a newer program wrote, and of one of another body.
pub(super) fn remembered(bytes: &[u8], body: &[u8], wires: &[WireEvent<'_>]) -> Result<Remembered, Problem> {
    let remembered = Remembered::from_bytes(bytes).ok_or_else(refuse::receipt_unreadable)?;
    if remembered.is_of(body, wires) { Ok(remembered) } else { Err(refuse::idempotency_key_reused()) }
}
