//! Bytes that this program wrote once and must go on reading: they wait in queues, tables and clients across a
//! roll-out. The cursor's is read where cursors are (`src/api/cursor.rs`).

use scoreline::directory::Directory;
use scoreline::directory::snapshot::{GameText, Snapshot};
use scoreline::domain::board::Operator;
use scoreline::domain::clock::Micros;
use scoreline::domain::ids::{BoardGenerationId, GameId};
use scoreline::domain::packed_facts;
use scoreline::ingest::receipt::Remembered;
use scoreline::queue::payload::decode_persist_events;
use uuid::Uuid;

fn golden(text: &str) -> Vec<u8> {
    hex::decode(text.trim()).unwrap()
}

#[test]
fn a_golden_job_is_read() {
    let bytes = golden(include_str!("../../golden/job.hex"));
    let job = decode_persist_events(&bytes).unwrap();
    assert_eq!((job.game_id, job.batch_id, job.from_server), (GameId(4), Uuid::from_u128(1), true));
    let [event] = &job.events[..] else { panic!("{job:?}") };
    assert_eq!((event.event_id, event.occurred_at), (Uuid::from_u128(7), Micros(5)));
    assert_eq!((event.event_type, event.player_id, event.session_id), ("game_ended", "p-17", None));
    assert_eq!((event.schema_version, event.payload), (Some(3), r#"{"score":1}"#));
}

#[test]
fn golden_facts_are_read() {
    let bytes = golden(include_str!("../../golden/facts.hex"));
    let facts = packed_facts::unpack(&bytes, |_, _| None).unwrap();
    let [first, second] = &facts[..] else { panic!("{facts:?}") };
    assert_eq!((first.generation, first.period.starts_at, first.player_id), (BoardGenerationId(7), Micros(-5), "p-1"));
    assert_eq!((first.score, first.subscore, first.metadata), (i64::MIN, i64::MAX, Some(r#"{"a":1}"#)));
    assert_eq!((first.occurred_at, first.received_at), (Micros(1), Micros(20)));
    assert_eq!((second.player_id, second.event_id, second.metadata), ("p-2", Uuid::from_u128(10), None));
}

#[test]
fn a_golden_marker_is_read() {
    let bytes = golden(include_str!("../../golden/marker.hex"));
    let (version, periods) = scoreline::aggregator::marker::read(&bytes, |_, _| None).unwrap();
    assert_eq!((version, periods.len()), (42, 1));
    assert_eq!((periods[0].generation, periods[0].period.starts_at), (BoardGenerationId(7), Micros(0)));
    let entries: Vec<_> =
        periods[0].entries.iter().map(|(player, standing)| (*player, standing.map(|s| s.score))).collect();
    assert_eq!(entries, [("p-1", Some(1)), ("p-2", None)]);
}

#[test]
fn a_golden_receipt_is_read() {
    let bytes = golden(include_str!("../../golden/receipt.hex"));
    assert!(Remembered::from_bytes(&bytes).is_some());
}

#[test]
fn a_golden_directory_is_read() {
    let json = include_str!("../../golden/directory-game.json").to_owned();
    let games = vec![GameText { id: GameId(4), json }];
    let directory = Directory::from_snapshot(Snapshot { version: 1, mark: String::new(), games });
    assert_eq!(directory.authenticate("k").map(|key| key.id), Some(1));
    let board = &directory.games["demo"].leaderboards["weekly"];
    assert_eq!(board.live.as_ref().unwrap().generation.spec.definition.operator, Operator::Incr);
}
