//! The body parser against hundreds of thousands of damaged bodies: what it makes of them, it makes without a panic,
//! and what it accepts Postgres can store. The corpus is kept in `tests/corpus/events`; whatever is found goes there.

use std::collections::HashSet;

use http_body_util::BodyExt as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use scoreline::directory::GameEntry;
use scoreline::domain::clock::Micros;
use scoreline::domain::verdict::Outcome;
use scoreline::ingest::batch::judge;
use scoreline::ingest::formats::native::{Bounds, read};
use scoreline::ingest::formats::{BodyProblem, Format};
use scoreline::ingest::receipt::Receipt;
use scoreline::ingest::settings::IngestConfig;
use scoreline::ingest::validate::Rules;
use scoreline::queue::payload::decode_persist_events;
use serde_json::Value;
use uuid::Uuid;

use crate::ingest::door::{NOW, defaults, game};
use crate::support::postgres;

/// Another seed damages otherwise: `SCORELINE_FUZZ_SEED=7 SCORELINE_FUZZ_INPUTS=10000000 scripts/test fuzz`.
const SEED: u64 = 0x5C0_8E11;
/// Inputs in all.
const INPUTS: usize = 200_000;
const THREADS: usize = 2;
/// Accepted events that are tried on Postgres: the first of each kind of text.
const KEPT: usize = 20_000;
const BOUNDS: Bounds = Bounds { events: 100, event_bytes: 2_048 };
const RULES: Rules = Rules {
    now: Micros::from_seconds(NOW),
    max_age_seconds: 7 * 86_400,
    max_ahead_seconds: 600,
    batch_id: Uuid::from_u128(0x018f_3b5e_7d1a_7c3e_9a55_0000_0000_0000),
};

/// What parsers stumble over.
const WORDS: [&[u8]; 40] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud83d",
    b"\\ude00",
    b"\\u0074",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\0",
    b"\x01",
    b"\n",
    b"\r\n",
    b" ",
    b"null",
    b"true",
    b"-",
    b"0",
    b"1e309",
    b"-0.0",
    b"1E+2",
    b"99999999999999999999",
    b"\"events\":",
    b"\"type\":\"t\"",
    b"\"player_id\":\"p\"",
    b"\"payload\":{}",
    b"\"event_id\":",
    b"\"occurred_at\":1800000000000",
    b"\"2027-01-15T08:00:00Z\"",
    b"\"schema_version\":1",
    b"[[[[[[[[",
    b"{\"a\":",
    b"NaN",
    b"Infinity",
];

fn corpus() -> Vec<(Format, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/events");
    let mut found: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    let format = |path: &std::path::Path| {
        if path.extension().is_some_and(|e| e == "ndjson") { Format::NdJson } else { Format::Json }
    };
    found.iter().map(|path| (format(path), std::fs::read(path).unwrap())).collect()
}

/// A body of the corpus with some damage.
fn damaged(corpus: &[(Format, Vec<u8>)], random: &mut SmallRng) -> (Format, Vec<u8>) {
    let (format, mut body) = corpus.choose(random).unwrap().clone();
    for _ in 0..random.random_range(1..=3) {
        let at = random.random_range(0..=body.len());
        let upto = |random: &mut SmallRng, most: usize| (at + random.random_range(0..=most)).min(body.len());
        match random.random_range(0..7) {
            0 if at < body.len() => body[at] = random.random(),
            1 if at < body.len() => body[at] ^= 1 << random.random_range(0..8),
            2 => {
                let end = upto(random, 12);
                body.drain(at..end);
            }
            3 => {
                let piece = body[at..upto(random, 60)].to_vec();
                let to = random.random_range(0..=body.len());
                body.splice(to..to, piece);
            }
            4 => {
                let (_, other) = corpus.choose(random).unwrap();
                let from = random.random_range(0..=other.len());
                let piece = &other[from..(from + random.random_range(0..120)).min(other.len())];
                body.splice(at..at, piece.iter().copied());
            }
            5 if random.random_bool(0.2) => body.truncate(at),
            _ => {
                let word = WORDS.choose(random).unwrap();
                body.splice(at..at, word.iter().copied());
            }
        }
    }
    body.truncate(64 * 1024);
    (if random.random_bool(0.05) { Format::NdJson } else { format }, body)
}

/// An accepted event as the worker will store it.
#[derive(PartialEq, Eq, Hash)]
struct Stored {
    texts: [String; 3],
    payload: String,
}

/// Reads, judges and answers a body as the door does, and checks what must hold of every body.
fn judge_body(format: Format, body: &[u8], game: &GameEntry, config: &IngestConfig, stored: &mut Vec<Stored>) -> usize {
    let whole: Option<Value> = if format == Format::Json { serde_json::from_slice(body).ok() } else { None };
    let wires = match read(format, body, BOUNDS) {
        Ok(wires) => wires,
        Err(problem) => {
            assert!(whole.is_none() || !matches!(problem, BodyProblem::NotJson(_) | BodyProblem::NotUtf8), "{problem}");
            return 0;
        }
    };
    assert!((1..=BOUNDS.events).contains(&wires.len()));
    if let Some(Value::Array(elements)) = &whole {
        assert_eq!(elements.len(), wires.len(), "an element is an event, whatever is in it");
    }
    let batch = judge(&wires, &RULES, game, false);
    let outcomes: Vec<Outcome> = batch.events.iter().map(|judged| judged.outcome).collect();
    for outcome in &outcomes {
        assert_eq!(Outcome::from_byte(outcome.to_byte()), Some(*outcome), "every verdict is a known one");
    }
    let receipt = Receipt { batch_id: batch.id, now: batch.now, retry_after: 0, outcomes };
    let counts = receipt.counts();
    assert_eq!(counts.accepted + counts.duplicate + counts.rejected + counts.retry, wires.len());
    let response = receipt.respond(&wires, false, config);
    let answer = futures_util::FutureExt::now_or_never(response.into_body().collect()).unwrap().unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&answer).expect("a receipt is JSON");
    assert_eq!(answer["received"], wires.len());
    let results = answer["results"].as_array().unwrap();
    assert!(
        results.iter().filter(|r| r["status"] == "rejected").all(|r| r["code"].is_string() && r["message"].is_string())
    );
    let mut queued = 0;
    for bytes in batch.jobs(game, false).iter().filter(|bytes| !bytes.is_empty()) {
        let job = decode_persist_events(bytes).expect("what ingest queues, a worker reads");
        queued += job.events.len();
        stored.extend(job.events.iter().map(|event| Stored {
            texts: [event.event_type, event.player_id, event.session_id.unwrap_or("")].map(str::to_owned),
            payload: event.payload.to_owned(),
        }));
    }
    assert_eq!(queued, counts.accepted);
    counts.accepted
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Judges `inputs` damaged bodies; what was accepted, each once.
fn run(seed: u64, inputs: usize) -> (usize, HashSet<Stored>) {
    let (corpus, game, config) = (corpus(), game(1, "demo", None, None), defaults::<IngestConfig>());
    let mut random = SmallRng::seed_from_u64(seed);
    let (mut accepted, mut kept, mut fresh) = (0, HashSet::new(), Vec::new());
    for (format, body) in &corpus {
        accepted += judge_body(*format, body, &game, &config, &mut fresh);
    }
    for _ in 0..inputs {
        let (format, body) = damaged(&corpus, &mut random);
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            judge_body(format, &body, &game, &config, &mut fresh)
        }));
        match judged {
            Ok(more) => accepted += more,
            Err(_) => panic!("seed {seed}: {format:?} {}", body.escape_ascii()),
        }
        if kept.len() < KEPT {
            kept.extend(fresh.drain(..));
        }
        fresh.clear();
    }
    (accepted, kept)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_damaged_body_panics_and_whatever_is_accepted_can_be_stored() {
    let seed = number("SCORELINE_FUZZ_SEED", SEED);
    let inputs = number("SCORELINE_FUZZ_INPUTS", INPUTS as u64) as usize / THREADS;
    let runs =
        (0..THREADS as u64).map(|thread| tokio::task::spawn_blocking(move || run(seed.wrapping_add(thread), inputs)));
    let (mut accepted, mut kept) = (0, HashSet::new());
    for done in futures_util::future::join_all(runs).await {
        let (more, found) = done.unwrap();
        accepted += more;
        kept.extend(found);
    }
    // A generator whose bodies are all refused tests nothing.
    assert!(accepted > inputs / 10 && kept.len() > 1_000, "{accepted} accepted, {} different", kept.len());
    let database = postgres::database().await;
    sqlx::query("CREATE TABLE tried (type text, player_id text, session_id text, payload json)")
        .execute(&database.pool)
        .await
        .unwrap();
    let kept: Vec<Stored> = kept.into_iter().collect();
    for chunk in kept.chunks(1_000) {
        store(&database.pool, chunk).await;
    }
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM tried").fetch_one(&database.pool).await.unwrap();
    assert_eq!(rows, kept.len() as i64);
}

/// Stores events; when Postgres refuses, one by one, to say which.
async fn store(pool: &scoreline::store::pool::Pool, events: &[Stored]) {
    let column = |of: fn(&Stored) -> &str| events.iter().map(|event| of(event).to_owned()).collect::<Vec<String>>();
    let stored = sqlx::query("INSERT INTO tried SELECT a, b, c, d::json FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS t(a, b, c, d)")
        .bind(column(|e| &e.texts[0]))
        .bind(column(|e| &e.texts[1]))
        .bind(column(|e| &e.texts[2]))
        .bind(column(|e| &e.payload))
        .execute(pool)
        .await;
    match stored {
        Ok(_) => {}
        Err(error) if events.len() == 1 => panic!("{error}: {:?} {:?}", events[0].texts, events[0].payload),
        Err(_) => {
            for event in events {
                Box::pin(store(pool, std::slice::from_ref(event))).await;
            }
        }
    }
}
