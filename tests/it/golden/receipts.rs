//! What a client reads of its batch: every verdict with its reason, and the whole answers.

use http_body_util::BodyExt as _;
use scoreline::domain::verdict::Outcome;
use scoreline::ingest::formats::Format;
use scoreline::ingest::formats::native::{Bounds, read};
use scoreline::ingest::receipt::Receipt;
use scoreline::ingest::settings::IngestConfig;
use scoreline::ingest::wire_event::WireEvent;

use super::stored::{BATCH, NOW};
use super::{answer_text, compare};
use crate::ingest::door;

/// Events that differ in what a receipt says of them: with an id, without one, with one that is none, with seconds.
const WIRES: [&str; 4] = [
    r#"{"event_id":"e-1","occurred_at":1800000000000}"#,
    r#"{}"#,
    r#"{"event_id":"no id"}"#,
    r#"{"event_id":"e-2","occurred_at":1799999990}"#,
];

async fn told(what: &str, wires: &[WireEvent<'_>], keyed: bool, receipt: &Receipt) -> String {
    let config: IngestConfig = door::defaults();
    let (parts, body) = receipt.respond(wires, keyed, &config).into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let headers: Vec<(String, String)> =
        parts.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    answer_text(what, parts.status.as_u16(), &headers, std::str::from_utf8(&body).unwrap())
}

fn wires(body: &str) -> Vec<WireEvent<'_>> {
    read(Format::Json, body.as_bytes(), Bounds { events: 1_000, event_bytes: 32_768 }).unwrap()
}

#[tokio::test]
async fn every_verdict_is_told_in_the_same_words() {
    let mut found = String::new();
    for outcome in Outcome::all() {
        let body = format!("[{}]", WIRES.join(","));
        let wires = wires(&body);
        let outcomes = vec![outcome; WIRES.len()];
        let receipt = Receipt { batch_id: BATCH, now: NOW, retry_after: 0, outcomes };
        found += &told(&format!("{outcome:?}"), &wires, false, &receipt).await;
    }
    compare("receipts-of-verdicts.txt", &found);
}

#[tokio::test]
async fn whole_receipts_are_the_same() {
    let all: Vec<Outcome> = Outcome::all().collect();
    let body = format!("[{}]", vec![WIRES[0]; all.len()].join(","));
    let mixed = format!("[{}]", WIRES.join(","));
    let (accepted, limited) = (Outcome::Accepted(None), all[4]);
    let mut found = String::new();
    for (what, wires, keyed, outcomes, retry_after) in [
        ("every outcome there is", wires(&body), false, all.clone(), 7),
        ("all accepted, without a key", wires(&mixed), false, vec![accepted; 4], 0),
        ("all accepted, with a key", wires(&mixed), true, vec![accepted; 4], 0),
        ("all over a limit", wires(&mixed), true, vec![limited; 4], 31),
        ("partly over a limit", wires(&mixed), true, vec![accepted, accepted, limited, limited], 31),
        ("all refused", wires(&mixed), false, vec![all[7]; 4], 0),
        ("all repeats", wires(&mixed), false, vec![Outcome::Duplicate; 4], 0),
    ] {
        let receipt = Receipt { batch_id: BATCH, now: NOW, retry_after, outcomes };
        found += &told(what, &wires, keyed, &receipt).await;
    }
    compare("receipts.txt", &found);
}
