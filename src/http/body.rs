//! Reads a request's body within bounds of size and time. Without them a client that sends a byte now and then would
//! keep its connection, and what was read so far, for ever.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More bytes than a body may have.
    #[error("the body is too large")]
    TooLarge,
    /// It stopped coming.
    #[error("the body stalled")]
    Stalled,
    /// The client went away.
    #[error("the body broke off")]
    BrokeOff,
}

/// Reads a body of at most `max` bytes; `gap` bounds the wait for its next piece, three times that the whole. What it
/// leaves of one that is too large is up to the listener ([`super::unread`]).
///
/// # Errors
/// [`BodyError`].
pub async fn read(mut body: Body, headers: &HeaderMap, max: usize, gap: Duration) -> Result<Bytes, BodyError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max as u64) {
        return Err(BodyError::TooLarge);
    }
    let deadline = Instant::now() + gap * 3;
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    loop {
        let next = timeout_at(deadline.min(Instant::now() + gap), body.frame());
        let frame = match next.await.map_err(|_| BodyError::Stalled)? {
            None => break,
            Some(frame) => frame.map_err(|_| BodyError::BrokeOff)?,
        };
        let Ok(data) = frame.into_data() else { continue };
        // Most bodies are one piece: it is used where it lies.
        match &first {
            None => first = Some(data),
            Some(head) => {
                if rest.is_empty() {
                    rest.reserve(announced.map_or(head.len() + data.len(), |length| length as usize));
                    rest.extend_from_slice(head);
                }
                rest.extend_from_slice(&data);
            }
        }
        if rest.len().max(first.as_ref().map_or(0, Bytes::len)) > max {
            return Err(BodyError::TooLarge);
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}
