//! Compressed answers.

use async_compression::tokio::write::GzipEncoder;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

/// Compresses a whole body.
///
/// # Errors
/// None in practice: it writes to memory.
pub async fn gzip(body: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzipEncoder::new(Vec::with_capacity(body.len() / 4));
    encoder.write_all(body).await?;
    encoder.shutdown().await?;
    Ok(encoder.into_inner().into())
}

/// Whether the client takes gzip (`gzip;q=0` says it does not).
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(
        |coding| {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let refused = parts.any(|p| p.strip_prefix("q=").is_some_and(|q| q.trim_matches(['0', '.']).is_empty()));
            (name.eq_ignore_ascii_case("gzip") || name == "*") && !refused
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_only_where_the_client_takes_it() {
        let accepts =
            |value: &str| accepts_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value.parse().unwrap())]));
        for yes in ["gzip", "br, gzip", "gzip;q=0.5", "*"] {
            assert!(accepts(yes), "{yes}");
        }
        for no in ["", "br", "identity", "gzip;q=0", "gzip; q=0.000"] {
            assert!(!accepts(no), "{no}");
        }
    }
}
