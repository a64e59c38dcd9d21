//! The audit that cron repeats: a sample of all entries and every count, one game's boards after the other
//! ([`crate::services::audit`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::context::Context;
use super::tenure::{JobError, Tenure};
use crate::domain::board::{CompiledBoard, GenerationState};
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::services::audit::{AuditError, Sampled, audit_sample};
use crate::store::{audit, definitions};

/// About how many entries a periodic audit samples.
const SAMPLE: i64 = 2_000;
/// Games whose boards are looked at side by side.
const GAMES_AT_ONCE: usize = 3;

/// Compares a sample of all entries and every count; repairs. What cron does each hour. Returns the drift.
///
/// # Errors
/// The last failure: a board that cannot be audited keeps no other from being audited.
pub async fn audit_all_samples(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    tenure.check().await?;
    let (boards, sample) = {
        let mut connection = context.pool.acquire().await?;
        (definitions::load(&mut connection).await?.boards, audit::sample(&mut connection, SAMPLE).await?)
    };
    let mut sampled: HashMap<BoardGenerationId, Sampled> = HashMap::new();
    for (generation, period, player) in sample {
        let (_, players) = sampled.entry(generation).or_default().entry(period.id).or_insert((period, Vec::new()));
        players.push(player);
    }
    let mut of_games: BTreeMap<GameId, Vec<_>> = BTreeMap::new();
    for board in boards.values().filter(|b| b.generation.state == GenerationState::Live) {
        let sample = sampled.remove(&board.generation.id).unwrap_or_default();
        of_games.entry(board.generation.game_id).or_default().push((board, sample));
    }
    let audits: Vec<_> = of_games.into_values().map(|boards| audit_samples(context, boards)).collect();
    // A game whose boards are slow, or large and to be written anew, holds nobody else up.
    let found: Vec<_> = stream::iter(audits).buffer_unordered(GAMES_AT_ONCE).collect().await;
    let (drift, failed) =
        found.into_iter().fold((0, None), |(sum, last), (drift, failed)| (sum + drift, failed.or(last)));
    failed.map_or(Ok(drift), |error| Err(error.into()))
}

/// One game's boards, one after the other. Returns the drift and the last failure.
async fn audit_samples(context: &Context, boards: Vec<(&Arc<CompiledBoard>, Sampled)>) -> (u64, Option<AuditError>) {
    let (mut drift, mut failed) = (0, None);
    for (board, sampled) in boards {
        if context.stop.is_cancelled() {
            break;
        }
        let (pool, ranking, stop) = (&context.pool, &context.ranking, &context.stop);
        match audit_sample(pool, ranking, board, sampled, "cron", stop).await {
            Ok(found) => drift += found,
            Err(error) => {
                tracing::warn!(generation = %board.generation.id, %error, "a leaderboard could not be audited");
                failed = Some(error);
            }
        }
    }
    (drift, failed)
}
