//! Bytes that this version writes into queues and tables. What earlier versions wrote is read in `reading.rs`.

use std::fmt::Write as _;

use scoreline::aggregator::marker::{self, MarkerWriter};
use scoreline::domain::board::Order;
use scoreline::domain::clock::Micros;
use scoreline::domain::event::Event;
use scoreline::domain::fact::{Fact, shard_of};
use scoreline::domain::ids::{BoardGenerationId, GameId};
use scoreline::domain::packed_facts::{self, FactPacker};
use scoreline::domain::period::Period;
use scoreline::domain::ranking_key::{Standing, encode};
use scoreline::domain::verdict::Outcome;
use scoreline::ingest::batch::judge;
use scoreline::ingest::formats::Format;
use scoreline::ingest::formats::native::{Bounds, read};
use scoreline::ingest::receipt::{Receipt, Remembered};
use scoreline::ingest::validate::Rules;
use scoreline::queue::payload::{PersistEventsEncoder, decode_persist_events, describe};
use uuid::Uuid;

use super::compare;
use crate::ingest::door;

/// A moment of 2027, as a batch comes in.
pub const NOW: Micros = Micros::from_seconds(door::NOW);
/// The batch.
pub const BATCH: Uuid = Uuid::from_u128(0x018f_3b5e_7d1a_7c3e_9a55_1f2e_3d4c_5b6a);

const DAY: Period = Period { starts_at: Micros(-5), ends_at: Some(Micros(86_400_000_000)) };

fn line(bytes: &[u8]) -> String {
    format!("{}\n", hex::encode(bytes))
}

#[test]
fn a_job_is_written_as_the_golden_one() {
    let event = Event {
        event_id: Uuid::from_u128(7),
        event_type: "game_ended",
        player_id: "p-17",
        session_id: None,
        schema_version: Some(3),
        occurred_at: Micros(5),
        payload: "{\"score\":1}",
    };
    let mut encoder = PersistEventsEncoder::new(GameId(4), Uuid::from_u128(1), true, 0);
    encoder.push(&event);
    compare("job.hex", &line(&encoder.finish()));
}

/// Events as clients write them: ids of both kinds and none, every field, scores in and out of bounds, a repeat.
const BODY: &str = r#"[
  {"event_id":"018f3b5e-7d1a-7c3e-9a55-000000000001","type":"game_ended","player_id":"p-1","payload":{"score":4200}},
  {"event_id":"match-17:round-2","type":"game_ended","player_id":"p-2","occurred_at":"2027-01-15T08:00:00.25+00:00",
   "session_id":"s-1","schema_version":3,"payload":{ "score" : -1 , "name":"Jos\u00e9 \ud83d\ude00" }},
  {"type":"game_ended","player_id":"p-3","occurred_at":1800000000000},
  {"type":"chat","player_id":"p-4","occurred_at":1800000000001,"payload":{"text":"hi"},"unknown":[1,2]},
  {"event_id":"match-17:round-2","type":"game_ended","player_id":"p-2","occurred_at":"2027-01-15T08:00:00.25Z"},
  {"type":"chat","player_id":"bad id","occurred_at":1800000000000}
]"#;

#[test]
fn a_batch_becomes_the_same_jobs_and_letters() {
    let wires = read(Format::Json, BODY.as_bytes(), Bounds { events: 100, event_bytes: 32_768 }).unwrap();
    let year = 365 * 86_400;
    let rules = Rules { now: NOW, max_age_seconds: 10 * year, max_ahead_seconds: 600, batch_id: BATCH };
    let game = door::game(4, "demo", None, None);
    let batch = judge(&wires, &rules, &game, false);
    let mut found = String::new();
    for judged in &batch.events {
        writeln!(found, "{:?} {:?}", judged.outcome.verdict(), judged.outcome.code()).unwrap();
    }
    for (lane, bytes) in ["high", "low"].iter().zip(batch.jobs(&game, false)) {
        assert!(decode_persist_events(&bytes).is_ok(), "{lane}");
        write!(found, "\n{lane}\n{}{}\n", line(&bytes), describe(&bytes).unwrap()).unwrap();
    }
    compare("batch.txt", &found);
}

#[test]
fn facts_are_packed_into_the_same_rows() {
    let fact = |generation, period, player_id, score| Fact {
        generation: BoardGenerationId(generation),
        period,
        player_id,
        score,
        subscore: -score,
        occurred_at: Micros(1),
        event_id: Uuid::from_u128(9),
        received_at: Micros(20 + i64::from(generation)),
        metadata: (score > 0).then_some(r#"{"a":1}"#),
    };
    let mut packer = FactPacker::default();
    for player in ["p-1", "p-2", "p-3"] {
        for (generation, period) in [(7, Period::WHOLE), (7, DAY), (8, Period::WHOLE)] {
            packer.push(&fact(generation, period, player, i64::MAX), Some(GameId(4)));
            packer.push(&fact(generation, period, player, -1), None);
        }
    }
    let mut found = String::from("# shard | facts | received at | games that wait | bytes\n");
    for row in packer.finish() {
        assert_eq!(packed_facts::unpack(&row.bytes, |_, _| None).unwrap().len(), row.count as usize);
        let (games, bytes) = (&row.games, hex::encode(&row.bytes));
        writeln!(found, "{} | {} | {} | {games:?} | {bytes}", row.shard, row.count, row.min_received_at.0).unwrap();
    }
    compare("facts-2.txt", &found);
}

#[test]
fn an_entry_stays_in_its_shard() {
    let players =
        ["a", "p-1", "p-2", "player:17", "018f3b5e-7d1a-7c3e-9a55-1f2e3d4c5b6a", &"x".repeat(128)].map(str::to_owned);
    let mut found = String::from("# generation | player | shard\n");
    for generation in [1, 2, 7, 300, i32::MAX] {
        for player in &players {
            writeln!(found, "{generation} | {player} | {}", shard_of(BoardGenerationId(generation), player)).unwrap();
        }
    }
    compare("shards.txt", &found);
}

#[test]
fn a_marker_is_written_the_same() {
    let standing = Standing { score: i64::MIN, subscore: i64::MAX, reached_at: Micros(-3) };
    let mut writer = MarkerWriter::new(42);
    writer.period(BoardGenerationId(7), Period::WHOLE, Order::Descending);
    writer.push("p-1", Some(&standing));
    writer.push("p-2", None);
    writer.period(BoardGenerationId(8), DAY, Order::Ascending);
    writer.push("p-3", Some(&Standing { score: 1, subscore: 2, reached_at: NOW }));
    let bytes = writer.finish().unwrap();
    assert_eq!(marker::read(&bytes, |_, _| None).unwrap().1.len(), 2);
    compare("marker-2.hex", &line(&bytes));
}

#[test]
fn a_receipt_is_kept_in_the_same_bytes() {
    let receipt = Receipt { batch_id: BATCH, now: NOW, retry_after: 9, outcomes: Outcome::all().collect() };
    let bytes = receipt.to_bytes(&[0xab; 32]);
    assert!(Remembered::from_bytes(&bytes).is_some_and(|read| read.receipt == receipt));
    compare("receipt-2.hex", &line(&bytes));
}

#[test]
fn sort_keys_are_the_same() {
    let mut numbers = vec![0, i64::MIN, i64::MAX];
    for bytes in 0..8 {
        let edge = 1i64 << (8 * bytes);
        numbers.extend([edge - 1, edge, -edge, -edge - 1]);
    }
    let mut found = String::from("# score, subscore, reached at | highest first | lowest first\n");
    for (at, score) in numbers.iter().enumerate() {
        let subscore = numbers[numbers.len() - 1 - at];
        for reached_at in [NOW, Micros(0), Micros(-1)] {
            let standing = Standing { score: *score, subscore, reached_at };
            let key = |order| hex::encode(encode(&standing, "p:1", order));
            let [highest, lowest] = [Order::Descending, Order::Ascending].map(key);
            writeln!(found, "{score}, {subscore}, {} | {highest} | {lowest}", reached_at.0).unwrap();
        }
    }
    compare("sort-keys.txt", &found);
}
