//! Places in a period's order: extreme scores that no double tells apart, equal ones, and cursors, which stay places
//! when their entries are gone.

use scoreline::domain::board::{Order, TiePolicy};
use scoreline::domain::clock::Micros;
use scoreline::domain::ranking_key::{Standing, decode, encode};
use scoreline::ranking::{BoardPeriod, Direction, Page, PublishedEntry, SortKey};
use serde_json::json;

use super::arena::{Arena, play};

const SCORES: [i64; 13] = [
    i64::MIN,
    i64::MIN + 1,
    -(1 << 53) - 1,
    -(1 << 53),
    -1,
    0,
    1,
    1 << 53,
    (1 << 53) + 1,
    (1 << 53) + 2,
    i64::MAX - 1_024,
    i64::MAX - 1,
    i64::MAX,
];

/// Entries of every score with ties in all further parts; the players' bytes order otherwise than a dictionary does.
fn entries() -> Vec<(String, Standing)> {
    let mut entries = Vec::new();
    for score in SCORES {
        for (subscore, reached_at) in [(-1, 0), (0, 0), (0, 0), (0, 7), (i64::MAX, 0)] {
            let player = format!("{}{}", ["a", "B", "_", "Z"][entries.len() % 4], entries.len());
            entries.push((player, Standing { score, subscore, reached_at: Micros(reached_at) }));
        }
    }
    entries
}

/// What a page must be: the members of `all` (best first) behind or before `from`.
fn expected<'a>(all: &'a [Vec<u8>], from: &[u8], direction: Direction, limit: usize) -> &'a [Vec<u8>] {
    let (before, at) = (all.partition_point(|m| &m[..] < from), all.partition_point(|m| &m[..] <= from));
    match direction {
        Direction::Forward => &all[at..(at + limit).min(all.len())],
        Direction::Backward => &all[before.saturating_sub(limit)..before],
    }
}

fn is_better(one: &Standing, other: &Standing, order: Order) -> bool {
    let (one, other) = ((one.score, one.subscore), (other.score, other.subscore));
    if order == Order::Ascending { one < other } else { one > other }
}

fn members(page: &Page) -> Vec<&[u8]> {
    page.entries.iter().map(|entry| entry.key.as_bytes()).collect()
}

#[tokio::test]
async fn places_and_ranks_are_exact_beyond_doubles() {
    let arena = Arena::new().await;
    for (slug, order) in [("high", Order::Descending), ("low", Order::Ascending)] {
        let board = arena.board(slug, json!({"order": if order == Order::Ascending { "asc" } else { "desc" }})).await;
        arena.rebuild(board).await;
        let entries = entries();
        let published: Vec<PublishedEntry<'_>> =
            entries.iter().map(|(player_id, s)| PublishedEntry { player_id, standing: Some(*s) }).collect();
        let whole = BoardPeriod { tie_policy: TiePolicy::Competition, ..arena.whole(board) };
        assert_eq!(whole.order, order);
        arena.ranking.publish(board, &whole.period, order, 1, &published).await.unwrap();
        let mut all: Vec<Vec<u8>> = entries.iter().map(|(player, standing)| encode(standing, player, order)).collect();
        all.sort_unstable();

        let page = arena.ranking.page(&whole, 1_000, None, Direction::Forward).await.unwrap();
        assert_eq!(members(&page), all);
        for entry in &page.entries {
            let better = entries.iter().filter(|(_, other)| is_better(other, &entry.standing, order)).count() as u64;
            assert_eq!(entry.rank, better + 1, "{entry:?}");
            let alone = arena.ranking.standing(&whole, entry.player_id()).await.unwrap();
            assert_eq!(alone.entry.as_ref(), Some(entry));
            let around = arena.ranking.around(&whole, entry.player_id(), 1).await.unwrap();
            assert_eq!(around.entries, std::slice::from_ref(entry));
        }
        // From every entry, and from places beside every entry where nobody stands.
        for member in &all {
            let (standing, player) = decode(member, order).unwrap();
            for player in [player, &format!("-{player}"), &format!("{player}0"), "zz"] {
                let from = SortKey::parse(&encode(&standing, player, order)).unwrap();
                for direction in [Direction::Forward, Direction::Backward] {
                    let page = arena.ranking.page(&whole, 3, Some(&from), direction).await.unwrap();
                    assert_eq!(members(&page), expected(&all, from.as_bytes(), direction, 3), "{direction:?} {from:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_someone_else_wrote_on_a_board_is_left_out_and_costs_nobody_else() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({"tie_policy": "competition"})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 3, 0), play("b", 2, 0), play("c", 1, 0)]).await;
    let keys = format!("{{sl:b3:{board}}}:p:0..");
    let mut redis = arena.redis.connection();
    redis::cmd("ZADD").arg(format!("{keys}:rank")).arg(0).arg(b"\x82").exec(&mut redis).unwrap();
    redis::cmd("HSET").arg(format!("{keys}:member")).arg("x").arg("nonsense").exec(&mut redis).unwrap();
    let whole = arena.whole(board);
    let first = arena.ranking.page(&whole, 3, None, Direction::Forward).await.unwrap();
    assert_eq!(first.entries.len(), 3);
    let second = arena.ranking.page(&whole, 3, first.next.as_ref(), Direction::Forward).await.unwrap();
    assert!(second.entries.is_empty());
    let found = arena.ranking.lookup(&whole, &["a", "x", "c"]).await.unwrap();
    let ranks: Vec<(u64, &str)> = found.entries.iter().map(|(_, entry)| (entry.rank, entry.player_id())).collect();
    assert_eq!(ranks, [(1, "a"), (3, "c")]);
}
