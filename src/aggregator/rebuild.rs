//! Keeping boards in Redis: those that it does not hold are rebuilt (docs/rules.md#boards-are-swapped-whole).
//!
//! A small one and a large one at a time: nobody's few entries wait for another's millions, and folds keep the cores
//! when every board is to be rebuilt. One that takes long is given company, of another game: a board that is slow, or
//! cannot be rebuilt, holds up its own game only. Games have turns, so many boards of one do not come before another's
//! only one. Boards are looked at meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rules::Rules;
use crate::domain::board::CompiledBoard;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::ranking::{BoardStatus, Ranking, RebuildError};
use crate::services::board_rebuild::{RebuildBoardError, rebuild_board};
use crate::store::entries;
use crate::store::pool::Pool;

/// How often boards are looked after.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Boards with no more entries than this are small.
const SMALL: i64 = 10_000;
/// Rebuilds at once: each reads a chunk at a time on one of the few connections that folds need as well.
const SMALL_AT_ONCE: usize = 3;
const LARGE_AT_ONCE: usize = 2;
/// After so long the next one of its size does not wait for it.
const SMALL_IS_LONG: Duration = Duration::from_secs(1);
const LARGE_IS_LONG: Duration = Duration::from_secs(10);
/// Failures in a row after which Redis or Postgres is taken to be away.
const AWAY: u32 = 10;

/// Rebuilds live boards that Redis does not hold, or held before it restarted: at start, each second, and when
/// `wanted` says so, until `stop`.
pub async fn keep_boards(
    pool: &Pool,
    ranking: &Ranking,
    rules: &Rules,
    wanted: &Arc<Notify>,
    stop: &CancellationToken,
) {
    let mut keeper = Keeper::new(pool, ranking);
    let mut healthy = true;
    loop {
        let before = std::mem::replace(&mut keeper.last, Ok(()));
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = keeper.look(rules) => looked,
        };
        match before.and(looked) {
            Ok(()) => healthy = true,
            Err(error) => {
                if std::mem::replace(&mut healthy, false) {
                    tracing::warn!(%error, "boards could not be checked; trying each second");
                }
            }
        }
        let next_look = tokio::time::sleep(CHECK_INTERVAL);
        tokio::pin!(next_look);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = wanted.notified() => break,
                () = &mut next_look => break,
                Some(ended) = keeper.under_way.join_next() => keeper.ended(ended),
            }
        }
    }
}

/// Rebuilds the live boards that need it now. One that cannot be rebuilt does not stop the others.
///
/// # Errors
/// Redis or Postgres is away, or the last board that could not be rebuilt.
pub async fn check_boards(pool: &Pool, ranking: &Ranking, rules: &Rules) -> Result<(), RebuildBoardError> {
    let mut keeper = Keeper::new(pool, ranking);
    keeper.look(rules).await?;
    while !keeper.under_way.is_empty() {
        tokio::select! {
            Some(ended) = keeper.under_way.join_next() => keeper.ended(ended),
            () = tokio::time::sleep(CHECK_INTERVAL) => keeper.fill_places(),
        }
    }
    keeper.last
}

/// A board whose turn is over, whether it was rebuilt as a large one, and how that went.
type Ended = (Arc<CompiledBoard>, bool, Result<Turn, RebuildBoardError>);

/// What a turn has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It is there, or somebody else is at it.
    Over,
    /// It has too many entries for the turn of a small one.
    IsLarge,
}

/// Rebuilds that are under way, and the boards that wait for one.
struct Keeper {
    pool: Pool,
    ranking: Ranking,
    under_way: JoinSet<Ended>,
    at_work: HashSet<BoardGenerationId>,
    /// Games with a rebuild under way, of a small and of a large board, and when it began.
    busy: HashMap<(GameId, bool), Instant>,
    line: Vec<Arc<CompiledBoard>>,
    /// The number of each game's last turn, of a small and of a large board. It is kept, so that nobody comes first by
    /// ever new boards.
    of_game: HashMap<(GameId, bool), u64>,
    turns: u64,
    large: HashSet<BoardGenerationId>,
    /// The number of each board's last failure: who failed comes after who did not.
    failed: HashMap<BoardGenerationId, u64>,
    failures: u64,
    in_a_row: u32,
    /// The last failure since this was taken.
    last: Result<(), RebuildBoardError>,
}

impl Keeper {
    fn new(pool: &Pool, ranking: &Ranking) -> Self {
        Self {
            pool: pool.clone(),
            ranking: ranking.clone(),
            under_way: JoinSet::new(),
            at_work: HashSet::new(),
            busy: HashMap::new(),
            line: Vec::new(),
            of_game: HashMap::new(),
            turns: 0,
            large: HashSet::new(),
            failed: HashMap::new(),
            failures: 0,
            in_a_row: 0,
            last: Ok(()),
        }
    }

    /// Looks which boards need a rebuild, and begins with as many as there is room for.
    async fn look(&mut self, rules: &Rules) -> Result<(), RebuildBoardError> {
        rules.refresh().await?;
        let live = rules.live();
        let ids: Vec<BoardGenerationId> = live.iter().map(|b| b.generation.id).collect();
        let statuses = self.ranking.status(&ids).await?;
        let missing = live.into_iter().zip(statuses).filter(|(_, status)| *status != BoardStatus::Ready);
        self.line = missing.map(|(board, _)| board).filter(|b| !self.at_work.contains(&b.generation.id)).collect();
        let waits: HashSet<BoardGenerationId> = self.line.iter().map(|b| b.generation.id).collect();
        self.large.retain(|generation| waits.contains(generation));
        self.failed.retain(|generation, _| waits.contains(generation) || self.at_work.contains(generation));
        self.in_a_row = 0;
        self.fill_places();
        Ok(())
    }

    /// Where a board stands in the line: who failed comes last, then whose game's last turn is the latest.
    fn place(&self, board: &CompiledBoard) -> (bool, u64, Option<u64>, BoardGenerationId) {
        let (game, generation) = (board.generation.game_id, board.generation.id);
        let failed = self.failed.get(&generation).copied();
        let turn = self.of_game.get(&(game, self.large.contains(&generation)));
        (failed.is_some(), turn.copied().unwrap_or_default(), failed, generation)
    }

    /// Begins with boards that wait, for as long as there is room.
    fn fill_places(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        line.sort_by_cached_key(|board| self.place(board));
        let mut line = line.into_iter();
        for board in line.by_ref() {
            let (game, generation) = (board.generation.game_id, board.generation.id);
            let large = self.large.contains(&generation);
            let room = [self.has_room(false), self.has_room(true)];
            if room == [false, false] {
                self.line.push(board);
                break;
            }
            if !room[usize::from(large)] || self.busy.contains_key(&(game, large)) {
                self.line.push(board);
                continue;
            }
            self.turns += 1;
            self.of_game.insert((game, large), self.turns);
            self.busy.insert((game, large), Instant::now());
            self.at_work.insert(generation);
            let (pool, ranking) = (self.pool.clone(), self.ranking.clone());
            self.under_way.spawn(async move {
                let turn = turn(&pool, &ranking, &board, large).await;
                (board, large, turn)
            });
        }
        self.line.extend(line);
    }

    /// Whether one more board of this size may begin.
    fn has_room(&self, large: bool) -> bool {
        let (most, long) = if large { (LARGE_AT_ONCE, LARGE_IS_LONG) } else { (SMALL_AT_ONCE, SMALL_IS_LONG) };
        let mut under_way = self.busy.iter().filter(|((_, of), _)| *of == large);
        under_way.clone().count() < most && under_way.all(|(_, began)| began.elapsed() >= long)
    }

    /// A turn is over: the next board has one. When so many in a row have failed that the others would as well, those
    /// wait for the next look.
    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        let (board, large, turn) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The process ends.
            Err(_) => return,
        };
        let (game, generation) = (board.generation.game_id, board.generation.id);
        self.at_work.remove(&generation);
        self.busy.remove(&(game, large));
        match turn {
            Ok(Turn::Over) => self.in_a_row = 0,
            Ok(Turn::IsLarge) => {
                self.large.insert(generation);
                self.line.push(board);
            }
            Err(error) => {
                self.failures += 1;
                self.in_a_row += 1;
                // Said once, and not each second for as long as it lasts.
                if self.failed.insert(generation, self.failures).is_none() {
                    tracing::warn!(%generation, %error, "a leaderboard cannot be rebuilt; trying again");
                }
                self.last = Err(error);
                if self.in_a_row >= AWAY {
                    self.line.clear();
                }
            }
        }
        self.fill_places();
    }
}

/// Rebuilds a board, unless somebody else has done so while it waited, or it is larger than expected.
async fn turn(pool: &Pool, ranking: &Ranking, board: &CompiledBoard, large: bool) -> Result<Turn, RebuildBoardError> {
    let generation = board.generation.id;
    if ranking.status(&[generation]).await? == [BoardStatus::Ready] {
        return Ok(Turn::Over);
    }
    if !large && entries::count_published(pool, generation.0, SMALL + 1).await? > SMALL {
        return Ok(Turn::IsLarge);
    }
    let order = board.generation.spec.definition.order;
    match rebuild_board(pool, ranking, generation, order, "cron", |_| {}).await {
        Ok(done) => tracing::info!(
            %generation, periods = done.periods, entries = done.entries, version = done.version,
            "leaderboard rebuilt"
        ),
        Err(RebuildBoardError::Rebuild(RebuildError::Busy)) => {}
        Err(error) => return Err(error),
    }
    Ok(Turn::Over)
}
