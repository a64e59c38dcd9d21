//! Reading leaderboard definitions, as workers and the aggregator need them.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::board::{BoardGeneration, CompiledBoard, GenerationState, LeaderboardSpec};
use crate::domain::clock::Micros;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::store::StoreError;

/// Which definitions of a game: what an event is stamped with, and what tells whether they are still the
/// ones in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GameDefinitions {
    /// Grows with every change, and goes back with the database: it may come twice.
    pub generation: i32,
    /// Never comes twice.
    pub mark: Uuid,
}

/// A generation that this program cannot read: a newer one wrote it, or it is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableBoard {
    /// Whose it is.
    pub game: GameId,
    /// What feeds it; `None`: that cannot be read either, so anything may.
    pub event_type: Option<String>,
    /// Why it cannot be read.
    pub why: String,
}

/// Every live and building generation, with each game's definitions generation, read at one moment.
#[derive(Debug, Default)]
pub struct Definitions {
    /// Each game's definitions generation.
    pub game_generations: HashMap<GameId, GameDefinitions>,
    /// Boards by what they are called in facts and periods.
    pub boards: HashMap<BoardGenerationId, Arc<CompiledBoard>>,
    /// Boards by the game and event type that feed them.
    pub feeds: HashMap<GameId, HashMap<String, Vec<Arc<CompiledBoard>>>>,
    /// Generations that cannot be read. They are not gone: who can read them counts what is kept for them.
    pub unreadable: HashMap<BoardGenerationId, UnreadableBoard>,
}

impl Definitions {
    /// When the period of a generation ends that starts at this moment, by its schedule: for facts and markers of
    /// earlier programs, which do not say it.
    pub fn period_end(&self, generation: BoardGenerationId, starts_at: Micros) -> Option<Micros> {
        self.boards.get(&generation).and_then(|board| board.schedule.period_at(starts_at).ends_at)
    }

    /// Logs the generations that cannot be read and that were not among those of `before`, for the same reason. They
    /// are looked at again each second, so that each time would be too often.
    pub fn tell_unreadable(&self, before: &Self) {
        for (id, board) in self.newly_unreadable(before) {
            let error = &board.why;
            tracing::error!(generation = id.0, %error, "cannot read a leaderboard; keeping its events");
        }
    }

    fn newly_unreadable(&self, before: &Self) -> Vec<(BoardGenerationId, &UnreadableBoard)> {
        let is_new = |(id, board): &(&BoardGenerationId, &UnreadableBoard)| before.unreadable.get(id) != Some(*board);
        self.unreadable.iter().filter(is_new).map(|(id, board)| (*id, board)).collect()
    }

    /// A board of the game that cannot be read and that events of this type feed, or may feed.
    pub fn unreadable_for(&self, game: GameId, event_type: &str) -> Option<BoardGenerationId> {
        let feeds = |board: &UnreadableBoard| {
            board.game == game && board.event_type.as_deref().is_none_or(|known| known == event_type)
        };
        // Nearly always there is none.
        self.unreadable.iter().find(|(_, board)| feeds(board)).map(|(id, _)| *id)
    }
}

type Row = (i32, i32, Uuid, Option<i32>, Option<i32>, Option<i32>, Option<String>, Option<String>);

/// Loads all definitions. A generation that does not compile is kept among the unreadable ones: it must not stop the
/// others. Who loads them says so, by [`Definitions::tell_unreadable`].
pub async fn load(connection: &mut PgConnection) -> Result<Definitions, StoreError> {
    let mut definitions = Definitions::default();
    // One statement, so that generations and boards are of one snapshot.
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT g.id, g.definitions_generation, g.definitions_mark, b.id, b.leaderboard_id, b.since_generation, b.state,
                b.spec::text
           FROM games g
           LEFT JOIN leaderboards l ON l.game_id = g.id
           LEFT JOIN leaderboard_generations b ON b.leaderboard_id = l.id AND b.state <> 'retired'",
    )
    .fetch_all(connection)
    .await?;
    for (game, generation, mark, id, leaderboard_id, since_generation, state, spec) in rows {
        let game_id = GameId(game);
        definitions.game_generations.insert(game_id, GameDefinitions { generation, mark });
        let (Some(id), Some(leaderboard_id), Some(since_generation), Some(state), Some(text)) =
            (id, leaderboard_id, since_generation, state, spec)
        else {
            continue;
        };
        let id = BoardGenerationId(id);
        let compiled = serde_json::from_str::<LeaderboardSpec>(&text).map_err(|e| e.to_string()).and_then(|spec| {
            let state = if state == "live" { GenerationState::Live } else { GenerationState::Building };
            let generation = BoardGeneration { id, leaderboard_id, game_id, since_generation, state, spec };
            CompiledBoard::compile(generation).map_err(|e| e.to_string())
        });
        match compiled {
            Ok(board) => {
                let board = Arc::new(board);
                let event_type = board.generation.spec.definition.event_type.as_str().to_owned();
                definitions.boards.insert(board.generation.id, Arc::clone(&board));
                definitions.feeds.entry(game_id).or_default().entry(event_type).or_default().push(board);
            }
            Err(error) => {
                let event_type = event_type_of(&text);
                definitions.unreadable.insert(id, UnreadableBoard { game: game_id, event_type, why: error });
            }
        }
    }
    Ok(definitions)
}

/// What feeds a leaderboard whose definition cannot be read as a whole.
fn event_type_of(spec: &str) -> Option<String> {
    let spec: serde_json::Value = serde_json::from_str(spec).ok()?;
    spec.get("event_type")?.as_str().map(str::to_owned)
}

/// Other than before after every change to games, keys or leaderboards: a number that grows, and goes back with the
/// database, and a mark that never comes twice.
pub async fn version(connection: &mut PgConnection) -> Result<(i64, Uuid), StoreError> {
    sqlx::query_as("SELECT version, mark FROM directory_version").fetch_one(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreadable(boards: &[(i32, &str)]) -> Definitions {
        let board = |why: &str| UnreadableBoard { game: GameId(1), event_type: None, why: why.to_owned() };
        let unreadable = boards.iter().map(|(id, why)| (BoardGenerationId(*id), board(why))).collect();
        Definitions { unreadable, ..Definitions::default() }
    }

    #[test]
    fn what_cannot_be_read_is_told_once_for_each_reason() {
        let told = |now: &[(i32, &str)], before: &[(i32, &str)]| {
            let (now, before) = (unreadable(now), unreadable(before));
            let mut ids: Vec<i32> = now.newly_unreadable(&before).into_iter().map(|(id, _)| id.0).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(told(&[(1, "a"), (2, "b")], &[]), [1, 2]);
        assert_eq!(told(&[(1, "a"), (2, "b")], &[(1, "a")]), [2]);
        assert_eq!(told(&[(1, "c")], &[(1, "a")]), [1]);
        assert!(told(&[(1, "a")], &[(1, "a"), (2, "b")]).is_empty());
    }
}
