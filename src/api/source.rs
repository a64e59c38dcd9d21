//! Where an answer comes from: Redis; the final standings of a closed period that Redis no longer has; a small board
//! from Postgres while Redis does not have it or has lost a part of it, and until Redis shows as much again; otherwise
//! `503`, never an empty `200` (docs/rules.md#missing-boards-are-never-empty).

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::time::Instant;

use super::ahead::Ahead;
use super::behind::Behind;
use super::boards::Boards;
use super::cache::BoardKey;
use super::error::ApiError;
use super::final_board::FinalBoard;
use super::history::History;
use super::problem::rebuilding;
use super::sorted_board::SortedBoard;
use crate::domain::ids::BoardGenerationId;
use crate::ranking::{BoardPeriod, Direction, LookedUp, Page, Ranking, ReadError, SortKey, StandingAnswer};
use crate::store::periods::StoredPeriod;
use crate::store::standings::small_board;
use crate::store::{Pool, StoreError};
use crate::telemetry::log_budget::LogBudget;

/// Boards of at most this many entries are answered from Postgres while Redis does not have them.
const SMALL: i64 = 1_000;

/// Small boards from Postgres by era, for half a second: while Redis is away, Postgres is asked once in that time for
/// each of these boards.
struct SmallBoards(Cache<(i64, BoardKey), Option<Arc<SortedBoard>>>);

impl Default for SmallBoards {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(200).time_to_live(Duration::from_millis(500)).build())
    }
}

/// Boards of which Redis has lost a part, or a version: cron is told to rebuild them, each at most once a second.
struct Damaged(Cache<BoardGenerationId, ()>);

impl Default for Damaged {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(1_000).time_to_live(Duration::from_secs(1)).build())
    }
}

impl Damaged {
    async fn report(&self, ranking: Ranking, generation: BoardGenerationId) {
        let doubted = self.0.try_get_with(generation, async {
            tracing::warn!(%generation, "Redis has lost a part of a leaderboard, or its version; it will be rebuilt");
            ranking.mark_damaged(generation).await
        });
        if let Err(error) = doubted.await {
            tracing::debug!(%generation, %error, "a damaged leaderboard could not be marked");
        }
    }
}

/// All that boards are read from, and what was shown of them.
pub struct Sources {
    ranking: Ranking,
    pool: Pool,
    boards: Arc<Boards>,
    history: Arc<History>,
    small_boards: SmallBoards,
    damaged: Damaged,
    behind: Behind,
    ahead: Ahead,
}

impl Sources {
    /// Reads from `ranking`, and from `pool` and `history` in its stead; tells `boards` what it shows.
    pub fn new(ranking: Ranking, pool: Pool, boards: Arc<Boards>, history: Arc<History>) -> Self {
        let (small_boards, ahead) = (SmallBoards::default(), Ahead::default());
        let (damaged, behind) = (Damaged::default(), Behind::default());
        Self { ranking, pool, boards, history, small_boards, damaged, behind, ahead }
    }

    /// One period of one board: its name in Redis, and its row in Postgres.
    pub fn of<'a>(&'a self, board: &'a BoardPeriod, period: &'a StoredPeriod) -> Source<'a> {
        Source { sources: self, board, period }
    }
}

/// One period of one board, ready to be asked.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    sources: &'a Sources,
    board: &'a BoardPeriod,
    period: &'a StoredPeriod,
}

/// Who answers when Redis does not.
enum Instead<'a> {
    Final(FinalBoard<'a>),
    Small(Arc<SortedBoard>),
}

// Redis answers nearly always: the other answers are boxed, so that every request's future is not as large as theirs.
impl<'a> Source<'a> {
    /// As [`crate::ranking::Ranking::page`].
    pub async fn page(self, limit: usize, from: Option<&SortKey>, direction: Direction) -> Result<Page, ApiError> {
        let asked = self.sources.ranking.page(self.board, limit, from, direction);
        match self.ask_redis(asked).await {
            Ok(page) => Ok(page),
            Err(why) => match Box::pin(self.instead(why)).await? {
                Instead::Final(board) => Ok(Box::pin(board.page(limit, from, direction)).await?),
                Instead::Small(board) => Ok(board.page(limit, from, direction)),
            },
        }
    }

    /// As [`crate::ranking::Ranking::around`].
    pub async fn around(self, player: &str, limit: usize) -> Result<Page, ApiError> {
        let asked = self.sources.ranking.around(self.board, player, limit);
        match self.ask_redis(asked).await {
            Ok(page) => Ok(page),
            Err(why) => match Box::pin(self.instead(why)).await? {
                Instead::Final(board) => Ok(Box::pin(board.around(player, limit)).await?),
                Instead::Small(board) => Ok(board.around(player, limit)),
            },
        }
    }

    /// As [`crate::ranking::Ranking::standing`].
    pub async fn standing(self, player: &str) -> Result<StandingAnswer, ApiError> {
        let asked = self.sources.ranking.standing(self.board, player);
        match self.ask_redis(asked).await {
            Ok(answer) => Ok(answer),
            Err(why) => match Box::pin(self.instead(why)).await? {
                Instead::Final(board) => Ok(Box::pin(board.standing(player)).await?),
                Instead::Small(board) => Ok(board.standing(player)),
            },
        }
    }

    /// As [`crate::ranking::Ranking::lookup`].
    pub async fn lookup(self, players: &[&str]) -> Result<LookedUp, ApiError> {
        let asked = self.sources.ranking.lookup(self.board, players);
        match self.ask_redis(asked).await {
            Ok(answer) => Ok(answer),
            Err(why) => match Box::pin(self.instead(why)).await? {
                Instead::Final(board) => Ok(Box::pin(board.lookup(players)).await?),
                Instead::Small(board) => Ok(board.lookup(self.board, players)),
            },
        }
    }

    /// Redis's answer, unless somebody else has to answer: it failed, it does not hold this closed period, it has gone
    /// back behind what was shown of this board, or Postgres has shown more of the board than is published.
    async fn ask_redis<T: Answered>(
        self,
        asked: impl Future<Output = Result<T, ReadError>>,
    ) -> Result<T, Option<ReadError>> {
        if self.period.closed && !self.period.in_redis {
            return Err(None);
        }
        let (ahead, key) = (&self.sources.ahead, BoardKey::from(self.board));
        // Before it is asked: what it answers then has at least this version, if it has lost nothing.
        let latest = self.sources.boards.latest(self.board.generation);
        if ahead.is_known(key) {
            if Box::pin(ahead.waits(key, self.board, &self.sources.ranking)).await.map_err(Some)? {
                return Err(None);
            }
            // What Redis answers from now on may be newer than what was kept.
            self.sources.small_boards.0.invalidate(&(self.sources.boards.era(), key)).await;
        }
        match asked.await {
            Ok(answer) if answer.version() < latest => {
                if Box::pin(self.sources.behind.is_due(self.board.generation, Instant::now())).await {
                    Box::pin(self.sources.damaged.report(self.sources.ranking.clone(), self.board.generation)).await;
                }
                Err(None)
            }
            Ok(answer) if answer.published() || !self.period.closed => {
                self.sources.boards.shown(self.board.generation, answer.version());
                self.sources.behind.caught_up(self.board.generation).await;
                if self.period.closed {
                    Box::pin(self.sources.boards.shown_closed(self.board, answer.version())).await;
                }
                Ok(answer)
            }
            other => Err(other.err()),
        }
    }

    async fn instead(self, error: Option<ReadError>) -> Result<Instead<'a>, ApiError> {
        if matches!(error, Some(ReadError::Damaged)) {
            self.sources.damaged.report(self.sources.ranking.clone(), self.board.generation).await;
        }
        if self.period.closed {
            // It was published before it was closed.
            self.sources.ahead.forget_older(BoardKey::from(self.board), self.sources.boards.era());
            let shown = self.sources.boards.latest_closed(self.board).await;
            return Ok(Instead::Final(FinalBoard::new(&self.sources.history, self.board, self.period, shown)));
        }
        match self.small_board().await {
            Ok(Some(board)) => Ok(Instead::Small(board)),
            Ok(None) => Err(rebuilding().into()),
            Err(postgres) => {
                static LINES: LogBudget = LogBudget::new();
                if let Some(left_out) = LINES.admit(Instant::now()) {
                    let message = "neither Redis nor Postgres answers for a leaderboard";
                    tracing::warn!(redis = ?error, %postgres, left_out, message);
                }
                Err(rebuilding().into())
            }
        }
    }

    /// The whole board from Postgres; `None`: it is too large for that, or no longer there.
    async fn small_board(self) -> Result<Option<Arc<SortedBoard>>, Arc<StoreError>> {
        let latest = self.sources.boards.latest(self.board.generation);
        let board = self.kept_or_read(latest).await?;
        if board.as_ref().is_none_or(|board| board.version() >= latest) {
            return Ok(board);
        }
        // It was kept, or somebody began to read it, before what was shown since.
        self.sources.small_boards.0.invalidate(&(self.sources.boards.era(), BoardKey::from(self.board))).await;
        self.kept_or_read(latest).await
    }

    async fn kept_or_read(self, latest: i64) -> Result<Option<Arc<SortedBoard>>, Arc<StoreError>> {
        let Sources { pool, boards, ahead, small_boards, .. } = self.sources;
        // Before it is asked.
        let (era, key) = (boards.era(), BoardKey::from(self.board));
        let read = async {
            let Some(small) = small_board(pool, self.period.id, SMALL).await? else { return Ok(None) };
            ahead.showed(key, era, &small);
            let board = SortedBoard::new(self.board, small, latest);
            boards.shown(self.board.generation, board.version());
            Ok(Some(Arc::new(board)))
        };
        let board = small_boards.0.try_get_with((era, key), read).await?;
        if board.is_none() {
            ahead.forget_older(key, era);
        }
        Ok(board)
    }
}

/// What Redis answers with.
trait Answered {
    fn version(&self) -> i64;
    fn published(&self) -> bool;
}

macro_rules! answered {
    ($($answer:ty),*) => {
        $(impl Answered for $answer {
            fn version(&self) -> i64 {
                self.version
            }

            fn published(&self) -> bool {
                self.published
            }
        })*
    };
}

answered!(Page, StandingAnswer, LookedUp);
