//! Reading leaderboard definitions, as workers and the aggregator need them.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::PgConnection;

use crate::domain::board::{BoardGeneration, CompiledBoard, GenerationState, LeaderboardSpec};
use crate::domain::clock::Micros;
use crate::domain::ids::{BoardGenerationId, GameId};

/// Every live and building generation, with each game's definitions generation, read at one moment.
#[derive(Debug, Default)]
pub struct Definitions {
    /// Each game's definitions generation.
    pub game_generations: HashMap<GameId, i32>,
    /// Boards by what they are called in facts and periods.
    pub boards: HashMap<BoardGenerationId, Arc<CompiledBoard>>,
    /// Boards by the game and event type that feed them.
    pub feeds: HashMap<GameId, HashMap<String, Vec<Arc<CompiledBoard>>>>,
}

impl Definitions {
    /// When the period of a generation ends that starts at this moment, by its schedule: for facts and markers of earlier
    /// programs, which do not say it.
    pub fn period_end(&self, generation: BoardGenerationId, starts_at: Micros) -> Option<Micros> {
        self.boards.get(&generation).and_then(|board| board.schedule.period_at(starts_at).ends_at)
    }
}

/// Loads all definitions. A generation that does not compile (damage) is left out and logged: it must not stop the
/// others.
///
/// # Errors
/// Whatever Postgres says.
pub async fn load(connection: &mut PgConnection) -> Result<Definitions, sqlx::Error> {
    let mut definitions = Definitions::default();
    // One statement, so that generations and boards are of one snapshot.
    let rows: Vec<(i32, i32, Option<i32>, Option<i32>, Option<i32>, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT g.id, g.definitions_generation, b.id, b.leaderboard_id, b.since_generation, b.state, b.spec::text
           FROM games g
           LEFT JOIN leaderboards l ON l.game_id = g.id
           LEFT JOIN leaderboard_generations b ON b.leaderboard_id = l.id AND b.state <> 'retired'",
    )
    .fetch_all(connection)
    .await?;
    for (game, game_generation, id, leaderboard_id, since_generation, state, spec) in rows {
        let game_id = GameId(game);
        definitions.game_generations.insert(game_id, game_generation);
        let (Some(id), Some(leaderboard_id), Some(since_generation), Some(state), Some(spec)) =
            (id, leaderboard_id, since_generation, state, spec)
        else {
            continue;
        };
        let compiled = serde_json::from_str::<LeaderboardSpec>(&spec).map_err(|e| e.to_string()).and_then(|spec| {
            let state = if state == "live" { GenerationState::Live } else { GenerationState::Building };
            let id = BoardGenerationId(id);
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
            Err(error) => tracing::error!(generation = id, %error, "leaderboard definition is unusable"),
        }
    }
    Ok(definitions)
}

/// Grows with every change to games, keys or leaderboards.
///
/// # Errors
/// Whatever Postgres says.
pub async fn version(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT version FROM directory_version").fetch_one(connection).await
}
