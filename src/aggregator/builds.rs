//! Which of the generations that wait are built, and in which turns: no game's board waits for another's long history.
//!
//! Of each game one generation is built at a time, of all games [`AT_ONCE`]. Whoever has had its [`Turn`] makes room
//! if others wait, and goes on later from what it committed. First come those that never had a turn, then whose turn
//! is longest ago.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::context::Context;
use super::recompute::{self, Memory, Outcome};
use super::tenure::JobError;
use super::turn::{Room, Turn};
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::store::StoreError;
use crate::store::recompute_steps as steps;
use crate::telemetry::metrics as names;

/// How often a new generation is looked for, should the notice that wakes this have been lost.
pub const POLL: Duration = Duration::from_secs(3);
/// Builds under way: each costs a lease to renew, and some queries a second while it waits for its facts.
const AT_ONCE: usize = 8;
/// How long to leave a generation alone that could not be built.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What is remembered of a generation that waits.
#[derive(Debug, Default)]
struct Waiting {
    /// The number of its last turn.
    turn: u64,
    not_before: Option<Instant>,
    failed: bool,
    memory: Memory,
}

struct Builds {
    context: Arc<Context>,
    room: Arc<Room>,
    under_way: JoinSet<(Memory, Result<Outcome, JobError>)>,
    named: HashMap<Id, (GameId, BoardGenerationId)>,
    waiting: HashMap<BoardGenerationId, Waiting>,
    /// The number of each game's last turn. It is kept, so that nobody comes first by ordering ever new builds.
    of_game: HashMap<GameId, u64>,
    turns: u64,
}

/// Builds what is waiting to be built, until the context stops: at once when `recompute_wanted` says so, and every
/// `poll` without being told. Returns when what was under way has stopped.
pub async fn run(context: &Context, poll: Duration) {
    let mut builds = Builds {
        context: Arc::new(context.clone()),
        room: Arc::default(),
        under_way: JoinSet::new(),
        named: HashMap::new(),
        waiting: HashMap::new(),
        of_game: HashMap::new(),
        turns: 0,
    };
    let mut failed = false;
    while !context.stop.is_cancelled() {
        match builds.look().await {
            Ok(()) => failed = false,
            Err(error) if failed => tracing::debug!(%error, "still cannot read what is to be recomputed"),
            Err(error) => {
                failed = true;
                tracing::warn!(%error, "cannot read what is to be recomputed; trying each second");
            }
        }
        let pause = if failed { AFTER_FAILURE } else { builds.pause(poll) };
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = context.recompute_wanted.notified() => {}
            Some(ended) = builds.under_way.join_next_with_id() => builds.ended(ended),
            () = tokio::time::sleep(pause) => {}
        }
    }
    while let Some(ended) = builds.under_way.join_next_with_id().await {
        builds.ended(ended);
    }
}

impl Builds {
    /// Looks for what waits, and begins with as much of it as there is room for.
    async fn look(&mut self) -> Result<(), StoreError> {
        let found = {
            let mut connection = self.context.pool.acquire().await?;
            steps::waiting(&mut connection).await?
        };
        let known: HashSet<BoardGenerationId> = found.iter().map(|(_, generation)| *generation).collect();
        self.waiting.retain(|generation, _| known.contains(generation));
        let now = Instant::now();
        let mut line: Vec<_> = found.into_iter().filter(|(_, generation)| self.may_begin(*generation, now)).collect();
        line.sort_by_cached_key(|(game, generation)| {
            let turn = self.waiting.get(generation).map_or(0, |waiting| waiting.turn);
            (self.of_game.get(game).copied().unwrap_or_default(), turn, *generation)
        });
        let mut busy: HashSet<GameId> = self.named.values().map(|(game, _)| *game).collect();
        let mut left = 0_usize;
        for (game, generation) in line {
            if self.under_way.len() < AT_ONCE && busy.insert(game) {
                self.begin(game, generation);
            } else {
                left += 1;
            }
        }
        self.room.others_wait(left > 0);
        let under_way = self.under_way.len();
        metrics::gauge!(names::RECOMPUTES, "role" => "cron", "state" => "under_way").set(under_way as f64);
        metrics::gauge!(names::RECOMPUTES, "role" => "cron", "state" => "waiting").set(left as f64);
        Ok(())
    }

    fn may_begin(&self, generation: BoardGenerationId, now: Instant) -> bool {
        let rests = self.waiting.get(&generation).and_then(|waiting| waiting.not_before).is_some_and(|then| now < then);
        !rests && !self.named.values().any(|(_, under_way)| *under_way == generation)
    }

    fn begin(&mut self, game: GameId, generation: BoardGenerationId) {
        self.turns += 1;
        self.of_game.insert(game, self.turns);
        let waiting = self.waiting.entry(generation).or_default();
        waiting.turn = self.turns;
        let mut memory = std::mem::take(&mut waiting.memory);
        let (context, turn) = (Arc::clone(&self.context), Turn::new(&self.room));
        // A task of its own: what goes wrong in one build is no other's trouble.
        let task = self.under_way.spawn(async move {
            let outcome = recompute::build_in_turn(&context, generation, &turn, &mut memory).await;
            (memory, outcome)
        });
        self.named.insert(task.id(), (game, generation));
    }

    fn ended(&mut self, ended: Result<(Id, (Memory, Result<Outcome, JobError>)), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some((_, generation)) = self.named.remove(&id) else { return };
        let waiting = self.waiting.entry(generation).or_default();
        waiting.not_before = None;
        let error: Box<dyn std::error::Error> = match ended {
            Ok((_, (memory, outcome))) => {
                waiting.memory = memory;
                match outcome {
                    Ok(Outcome::Live) => return tracing::info!(%generation, "recomputed leaderboard is live"),
                    Ok(Outcome::Elsewhere) => return waiting.not_before = Some(Instant::now() + POLL),
                    Ok(Outcome::Superseded | Outcome::Stopped | Outcome::MakesRoom) => return,
                    Err(error) => error.into(),
                }
            }
            Err(panicked) => panicked.into(),
        };
        waiting.not_before = Some(Instant::now() + AFTER_FAILURE);
        if std::mem::replace(&mut waiting.failed, true) {
            tracing::debug!(%generation, %error, "a recompute still fails");
        } else {
            tracing::warn!(%generation, %error, "a recompute failed; it goes on where it stopped");
        }
    }

    /// Until the next look, if nobody asks for one.
    fn pause(&self, poll: Duration) -> Duration {
        let now = Instant::now();
        let next = self.waiting.values().filter_map(|waiting| waiting.not_before).filter(|then| *then > now).min();
        next.map_or(poll, |then| poll.min(then - now))
    }
}
