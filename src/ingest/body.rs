//! Unpacks a body within bounds.

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

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

/// Why a body cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It has more bytes, unpacked, than a body may have.
    #[error("the body is too large")]
    TooLarge,
    /// It is not packed as it says.
    #[error("the body is not valid {0}")]
    BadEncoding(&'static str),
}

/// Unpacks a body to at most `max` bytes. What it would unpack to beyond that is never made.
///
/// # Errors
/// [`UnpackError::TooLarge`] or [`UnpackError::BadEncoding`].
pub async fn unpack(packed: Bytes, encoding: Encoding, max: usize) -> Result<Bytes, UnpackError> {
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

async fn inflate(decoder: impl AsyncRead + Unpin, name: &'static str, max: usize) -> Result<Bytes, UnpackError> {
    let mut out = Vec::with_capacity(16 * 1024);
    let mut bounded = decoder.take(max as u64 + 1);
    bounded.read_to_end(&mut out).await.map_err(|_| UnpackError::BadEncoding(name))?;
    if out.len() > max { Err(UnpackError::TooLarge) } else { Ok(out.into()) }
}
