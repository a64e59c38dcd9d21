//! Reads a body within bounds of size and time, and unpacks it.

use std::time::Duration;

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout, timeout_at};

/// How much of a body that is too large anyway is read, so that a client that is still writing gets to see the answer.
const DRAIN_BYTES: usize = 8 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// The largest window a zstd frame may ask for: 8 MiB, as RFC 9659 has it for HTTP. The default would be 128.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// `gzip`, `x-gzip`.
    Gzip,
    /// `deflate`: the zlib format, as HTTP means it.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

impl Encoding {
    /// The encoding of a request; `None` when it is unknown, or there are several.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Some(Self::Identity) };
        let name = value.to_str().ok()?.trim();
        let known = [
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("deflate", Self::Deflate),
            ("br", Self::Brotli),
            ("zstd", Self::Zstd),
            ("identity", Self::Identity),
            ("", Self::Identity),
        ];
        let once = headers.get_all(header::CONTENT_ENCODING).iter().count() == 1;
        known.iter().find(|(n, _)| once && n.eq_ignore_ascii_case(name)).map(|(_, encoding)| *encoding)
    }
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More bytes than a body may have, packed or unpacked.
    #[error("the body is too large")]
    TooLarge,
    /// It stopped coming.
    #[error("the body stalled")]
    Stalled,
    /// The client went away.
    #[error("the body broke off")]
    BrokeOff,
    /// It is not packed as it says.
    #[error("the body is not valid {0}")]
    BadEncoding(&'static str),
}

/// Reads a body of at most `max` bytes; `gap` bounds the wait for its next piece, three times that the whole.
///
/// # Errors
/// [`BodyError`].
pub async fn read(mut body: Body, headers: &HeaderMap, max: usize, gap: Duration) -> Result<Bytes, BodyError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max as u64) {
        drain(body).await;
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
            drain(body).await;
            return Err(BodyError::TooLarge);
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}

async fn drain(mut body: Body) {
    let mut seen = 0;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > DRAIN_BYTES {
                break;
            }
        }
    };
    // However it ends, the answer is the same.
    let _ = timeout(DRAIN_TIME, reading).await;
}

/// Unpacks a body to at most `max` bytes. What it would unpack to beyond that is never made.
///
/// # Errors
/// [`BodyError::TooLarge`] or [`BodyError::BadEncoding`].
pub async fn unpack(packed: Bytes, encoding: Encoding, max: usize) -> Result<Bytes, BodyError> {
    let bytes = packed.as_ref();
    match encoding {
        Encoding::Identity => Ok(packed),
        Encoding::Gzip => {
            let mut decoder = GzipDecoder::new(bytes);
            decoder.multiple_members(true);
            inflate(decoder, "gzip", max).await
        }
        Encoding::Deflate => inflate(ZlibDecoder::new(bytes), "deflate", max).await,
        Encoding::Brotli => inflate(BrotliDecoder::new(bytes), "br", max).await,
        Encoding::Zstd => {
            let window = DParameter::window_log_max(ZSTD_WINDOW_LOG);
            inflate(ZstdDecoder::with_params(bytes, &[window]), "zstd", max).await
        }
    }
}

async fn inflate(decoder: impl AsyncRead + Unpin, name: &'static str, max: usize) -> Result<Bytes, BodyError> {
    let mut out = Vec::with_capacity(16 * 1024);
    let mut bounded = decoder.take(max as u64 + 1);
    bounded.read_to_end(&mut out).await.map_err(|_| BodyError::BadEncoding(name))?;
    if out.len() > max { Err(BodyError::TooLarge) } else { Ok(out.into()) }
}
