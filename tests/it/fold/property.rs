//! Folding does not depend on how facts are grouped and ordered; publishing and rebuilding agree.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use scoreline::domain::board::{Operator, Order};
use scoreline::domain::clock::Micros;
use scoreline::domain::entry::EntryState;
use scoreline::domain::fact::Fact;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use serde_json::json;
use uuid::Uuid;

use super::arena::{Arena, Play};

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![-3i64..3, Just(i64::MAX), Just(i64::MIN), Just((1 << 53) + 1), any::<i64>()]
}

/// Player, score, subscore, time, whether it has metadata.
type RawPlay = (u8, i64, i64, i64, bool);

/// Plays of few players with many ties; every event id occurs once. And where to cut them into groups.
fn plays() -> impl Strategy<Value = (Vec<RawPlay>, Vec<bool>)> {
    (1usize..40).prop_flat_map(|n| {
        let play = (0u8..4, number(), -2i64..2, 0i64..4, any::<bool>());
        (proptest::collection::vec(play, n), proptest::collection::vec(any::<bool>(), n))
    })
}

const PLAYERS: [&str; 4] = ["a", "b", "c", "d"];

fn fact(n: usize, (_, score, subscore, at, meta): &RawPlay) -> Fact<'static> {
    Fact {
        generation: BoardGenerationId(1),
        period: Period::WHOLE,
        player_id: "a",
        score: *score,
        subscore: *subscore,
        occurred_at: Micros(*at),
        event_id: Uuid::from_u128(n as u128),
        received_at: Micros(0),
        metadata: meta.then_some("{\"x\":1}"),
    }
}

proptest! {
    #[test]
    fn merging_is_independent_of_grouping_and_order(
        (plays, cuts) in plays(),
        shuffle in any::<u64>(),
        operator in prop_oneof![Just(Operator::Best), Just(Operator::Set), Just(Operator::Incr), Just(Operator::Decr)],
        order in prop_oneof![Just(Order::Ascending), Just(Order::Descending)],
    ) {
        let states: Vec<EntryState> =
            plays.iter().enumerate().map(|(n, p)| EntryState::from_fact(operator, &fact(n, p))).collect();
        let one_by_one = states.iter().cloned().reduce(|mut a, b| { a.merge(operator, order, b); a });
        // Another order, in groups that are merged first.
        let mut shuffled = states;
        shuffled.sort_by_key(|s| s.event_id.as_u128().wrapping_add(1).wrapping_mul(u128::from(shuffle) | 1) % 1009);
        let mut whole: Option<EntryState> = None;
        let mut group: Option<EntryState> = None;
        for (state, cut) in shuffled.into_iter().zip(cuts) {
            match &mut group { None => group = Some(state), Some(g) => { g.merge(operator, order, state); } }
            if cut {
                whole = match (whole, group.take()) {
                    (Some(mut w), Some(g)) => { w.merge(operator, order, g); Some(w) }
                    (w, g) => w.or(g),
                };
            }
        }
        let whole = match (whole, group) {
            (Some(mut w), Some(g)) => { w.merge(operator, order, g); Some(w) }
            (w, g) => w.or(g),
        };
        prop_assert_eq!(one_by_one, whole);
    }
}

/// A board's entries without versions, and its Redis keys without versions.
type Seen = (Vec<(String, i64, i64, i64, Option<String>)>, BTreeMap<String, Vec<String>>);

async fn seen(arena: &Arena, board: BoardGenerationId) -> Seen {
    let entries = arena.entries(board).await.into_iter().map(|(p, (s, b, plays, _, sum))| (p, s, b, plays, sum));
    let redis = arena.redis_state(board).into_iter().map(|(key, values)| {
        let key = key.rsplit_once("}:").unwrap().1.to_owned();
        if !key.ends_with(":member") {
            return (key, values);
        }
        let strip = |v: String| {
            let (player, rest) = v.split_once('=').unwrap();
            format!("{player}={}", rest.split_once(':').unwrap().1)
        };
        (key, values.into_iter().map(strip).collect())
    });
    (entries.collect(), redis.collect())
}

async fn check(arena: &Arena, case: usize, operator: &str, order: &str, plays: &[Play<'_>], cuts: &[bool]) {
    let spec = json!({"operator": operator, "order": order});
    let incremental = arena.board(&format!("inc-{operator}-{order}-{case}"), spec.clone()).await;
    arena.rebuild(incremental).await;
    let mut group = Vec::new();
    for (play, cut) in plays.iter().zip(cuts) {
        group.push(*play);
        if *cut {
            arena.score(incremental, &std::mem::take(&mut group)).await;
        }
    }
    arena.score(incremental, &group).await;
    let published = arena.redis_state(incremental);
    arena.rebuild(incremental).await;
    assert_eq!(arena.redis_state(incremental), published, "a rebuild gives the same bytes");

    // As a recompute does: everything again, in another order, in one go, then built at once.
    let recomputed = arena.board_in(&format!("rec-{operator}-{order}-{case}"), spec, "building").await;
    let mut again = plays.to_vec();
    again.sort_by_key(|p| p.event);
    again.reverse();
    arena.score(recomputed, &again).await;
    arena.rebuild(recomputed).await;
    assert_eq!(seen(arena, recomputed).await, seen(arena, incremental).await, "{operator} {order}");
}

#[tokio::test]
async fn incremental_rebuilt_and_recomputed_boards_are_the_same() {
    let arena = Arena::new().await;
    let mut runner = TestRunner::deterministic();
    for case in 0..4 {
        let (raw, cuts) = plays().new_tree(&mut runner).unwrap().current();
        let plays: Vec<Play<'_>> = raw
            .iter()
            .enumerate()
            .map(|(n, (player, score, subscore, at, meta))| Play {
                player: PLAYERS[usize::from(*player)],
                score: *score,
                subscore: *subscore,
                at: *at,
                received: *at,
                event: (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xffff_ffff,
                metadata: meta.then_some("{\"x\":1}"),
            })
            .collect();
        for operator in ["best", "set", "incr", "decr"] {
            for order in ["ascending", "descending"] {
                check(&arena, case, operator, order, &plays, &cuts).await;
            }
        }
    }
}
