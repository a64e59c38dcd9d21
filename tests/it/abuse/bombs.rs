//! Bodies that are far larger, or far deeper, than they look: refused, with memory bounded.

use async_compression::Level;
use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use async_compression::zstd::CParameter;
use scoreline::bench::load::Connection;
use scoreline::bench::rig::Role;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::measure::peak_kb;
use crate::support::system::{System, system};

/// Bombs of one kind at once, and how often.
const AT_ONCE: usize = 16;
/// How much the process may grow over everything that follows: a window of each decoder (16 MiB of brotli at most)
/// for each of a handful of threads, and the bodies in hand. One kind of bomb, unpacked, would be a
/// gigabyte.
const MAY_GROW_KB: u64 = 120 * 1_024;
const UNPACKED: usize = 64 * 1024 * 1024;

/// Packs `UNPACKED` blanks, written piece by piece.
async fn pack(mut encoder: impl tokio::io::AsyncWrite + Unpin) {
    let piece = vec![b' '; 1024 * 1024];
    for _ in 0..UNPACKED / piece.len() {
        encoder.write_all(&piece).await.unwrap();
    }
    encoder.shutdown().await.unwrap();
}

async fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let (mut gzip, mut zlib, mut brotli, mut zstd, mut wide) = (vec![], vec![], vec![], vec![], vec![]);
    pack(GzipEncoder::with_quality(&mut gzip, Level::Fastest)).await;
    pack(ZlibEncoder::with_quality(&mut zlib, Level::Fastest)).await;
    pack(BrotliEncoder::with_quality(&mut brotli, Level::Precise(1))).await;
    pack(ZstdEncoder::with_quality(&mut zstd, Level::Fastest)).await;
    // A frame that asks for a window of 128 MiB.
    let params = [CParameter::window_log(27)];
    pack(ZstdEncoder::with_quality_and_params(&mut wide, Level::Fastest, &params)).await;
    // Two members of which each alone would be too large.
    let twice = [gzip.as_slice(), gzip.as_slice()].concat();
    vec![("gzip", gzip), ("deflate", zlib), ("br", brotli), ("zstd", zstd), ("zstd", wide), ("gzip", twice)]
}

/// Posts a body; returns status and code.
async fn post(system: &System, encoding: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(system.rig.ingest).await.unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         content-encoding: {encoding}\r\ncontent-length: {}\r\n\r\n",
        system.server_key,
        body.len()
    );
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let sent = [head.as_bytes(), body].concat();
    let (_, read) = tokio::join!(writer.write_all(&sent), reader.read_to_end(&mut answer));
    read.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

/// Texts that are as deep as they are long.
fn deep() -> Vec<(Vec<u8>, u16)> {
    const LONG: usize = 500_000;
    let event = |payload: &str| format!("{{\"type\":\"t\",\"player_id\":\"p\",\"payload\":{payload}}}").into_bytes();
    let (half, small) = (LONG / 2, 7_000);
    vec![
        ("[".repeat(LONG).into_bytes(), 400),
        ("{\"a\":".repeat(LONG / 5).into_bytes(), 400),
        (format!("{}{}", "[".repeat(half), "]".repeat(half)).into_bytes(), 422),
        (format!("{{\"events\":{}{}}}", "[".repeat(half), "]".repeat(half)).into_bytes(), 422),
        (event(&format!("{}1{}", "{\"a\":".repeat(LONG / 7), "}".repeat(LONG / 7))), 422),
        (event(&format!("{}1{}", "{\"a\":".repeat(small / 7), "}".repeat(small / 7))), 422),
        (event(&"[".repeat(small)), 400),
        (format!("[{}1]", "1,".repeat(LONG / 2)).into_bytes(), 413),
        (format!("[{}{{}}]", "{},".repeat(LONG / 3)).into_bytes(), 413),
        (event(&format!("{{\"a\":\"{}\"}}", "\\u0041".repeat(LONG / 6))), 422),
        (event(&format!("{{{}\"z\":1}}", (0..50_000).fold(String::new(), |s, i| s + &format!("\"{i}\":1,")))), 422),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_are_refused_and_memory_is_bounded() {
    let mut system = system().await;
    system.rig.start(Role::Ingest).await.unwrap();
    let event = json!({"type": "t", "player_id": "p", "payload": {"a": "x".repeat(20_000)}}).to_string();
    let mut good = Connection::open(system.rig.ingest).await.unwrap();
    for _ in 0..20 {
        assert_eq!(good.post("/v1/events", &system.server_key, event.as_bytes()).await.unwrap(), 202);
    }
    let pid = system.rig.pid("ingest").unwrap();
    let before = peak_kb(pid);
    for (encoding, bomb) in bombs().await {
        // A body is at most 512 KiB as it is sent, too; what is longer is not unpacked at all.
        let answers = (0..AT_ONCE).map(|_| post(&system, encoding, &bomb));
        for (status, code) in futures_util::future::join_all(answers).await {
            let refused = [(413, "body_too_large"), (400, "content_encoding_invalid")];
            assert!(refused.contains(&(status, code.as_str())), "{encoding}, {} bytes: {status} {code}", bomb.len());
        }
    }
    for (text, expected) in deep() {
        let answers = (0..AT_ONCE).map(|_| post(&system, "identity", &text));
        for (status, code) in futures_util::future::join_all(answers).await {
            let beginning = String::from_utf8_lossy(&text[..60.min(text.len())]).into_owned();
            assert_eq!(status, expected, "{beginning}…: {code}");
        }
    }
    // Packed twice, or as nobody can unpack it.
    for encoding in ["gzip, gzip", "gzip, br", "compress", "zstd;q=1"] {
        assert_eq!(post(&system, encoding, b"[]").await.0, 415, "{encoding:?}");
    }
    assert_eq!(good.post("/v1/events", &system.server_key, event.as_bytes()).await.unwrap(), 202);
    let grown = peak_kb(pid) - before;
    assert!(grown < MAY_GROW_KB, "{grown} KiB more than before");
    assert!(system.rig.stop("ingest").await.unwrap().success());
}
