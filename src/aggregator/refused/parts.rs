//! What is in a row of facts, and the row in parts.

use std::collections::{BTreeMap, BTreeSet};

use crate::aggregator::fold::is_kept_whole;
use crate::domain::fact::Fact;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::domain::packed_facts::{self, FactPacker, PackedFacts};
use crate::store::definitions::Definitions;
use crate::store::facts::TakenFacts;

fn unpack<'a>(definitions: &Definitions, row: &'a [u8]) -> Vec<Fact<'a>> {
    packed_facts::unpack(row, |generation, start| definitions.period_end(generation, start)).unwrap_or_default()
}

/// The boards whose facts are in a row; none when it is not to be read.
pub(super) fn boards_of(definitions: &Definitions, row: &[u8]) -> Vec<BoardGenerationId> {
    let boards: BTreeSet<BoardGenerationId> =
        unpack(definitions, row).into_iter().map(|fact| fact.generation).collect();
    boards.into_iter().collect()
}

/// How many facts are in a row; none when it is not to be read.
pub(super) fn count(definitions: &Definitions, row: &[u8]) -> usize {
    unpack(definitions, row).len()
}

/// The facts of a row, in a row for each of what `by` says of them: its place, the fact. None when that is the same of
/// all, or the row is not to be read or kept whole.
pub(super) fn cut_up<T: Ord + Copy>(
    definitions: &Definitions,
    row: &TakenFacts,
    by: impl Fn(usize, &Fact<'_>) -> T,
) -> Vec<(T, PackedFacts)> {
    let facts = unpack(definitions, &row.facts);
    if is_kept_whole(definitions, &row.facts, &facts) {
        return Vec::new();
    }
    // With each: whether it is known of all its facts whose they are.
    let mut apart: BTreeMap<T, (FactPacker, bool)> = BTreeMap::new();
    for (nth, fact) in facts.iter().enumerate() {
        let board = definitions.boards.get(&fact.generation).map(|board| board.generation.game_id);
        let game = board.or_else(|| definitions.unreadable.get(&fact.generation).map(|board| board.game));
        let (packer, is_known) = apart.entry(by(nth, fact)).or_insert_with(|| (FactPacker::default(), true));
        packer.push(fact, game);
        *is_known &= game.is_some();
    }
    if apart.len() <= 1 {
        return Vec::new();
    }
    let held: Option<Vec<GameId>> = row.games.as_ref().map(|games| games.iter().map(|game| GameId(*game)).collect());
    let mut rows = Vec::with_capacity(apart.len());
    for (what, (packer, is_known)) in apart {
        rows.extend(packer.finish().into_iter().map(|mut part| {
            match &held {
                // Whose periods did not wait; or those of all games where it is not known of some fact whose it is. Its
                // board may have been made a moment ago.
                Some(held) if held.is_empty() || !is_known => part.games.clone_from(held),
                _ => {}
            }
            (what, part)
        }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::domain::clock::Micros;
    use crate::domain::fact::shard_of;
    use crate::domain::period::Period;
    use crate::store::definitions::UnreadableBoard;

    #[test]
    fn a_part_with_a_fact_of_an_unknown_board_keeps_the_games_of_its_row() {
        // Two boards of one game are known, and one of another game was made a moment ago.
        let [resting, other, unknown] = [1, 2, 3].map(BoardGenerationId);
        let (game, its_game) = (GameId(5), GameId(9));
        let known = UnreadableBoard { game, event_type: None, why: String::new() };
        let unreadable = HashMap::from([(resting, known.clone()), (other, known)]);
        let definitions = Definitions { unreadable, ..Definitions::default() };
        let names: Vec<String> = (0..100).map(|n| format!("p-{n}")).collect();
        let mut packer = FactPacker::default();
        for (generation, game) in [(resting, game), (other, game), (unknown, its_game)] {
            let player_id = names.iter().find(|name| shard_of(generation, name) == 0).unwrap().as_str();
            let fact = Fact {
                generation,
                period: Period::WHOLE,
                player_id,
                score: 1,
                subscore: 0,
                occurred_at: Micros(1),
                event_id: uuid::Uuid::nil(),
                received_at: Micros(2),
                metadata: None,
            };
            packer.push(&fact, Some(game));
        }
        let PackedFacts { shard, count, min_received_at, games, bytes: facts } = packer.finish().remove(0);
        let games = Some(games.into_iter().map(|game| game.0).collect());
        let row = TakenFacts { id: 1, first_id: 1, shard, count, min_received_at, games, facts };
        let parts = cut_up(&definitions, &row, |_, fact| fact.generation == resting);
        let held: Vec<_> =
            parts.iter().map(|(is_resting, part)| (*is_resting, part.count, part.games.as_slice())).collect();
        assert_eq!(held, [(false, 2, [game, its_game].as_slice()), (true, 1, [game].as_slice())]);
    }
}
