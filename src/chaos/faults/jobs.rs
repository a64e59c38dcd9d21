//! Jobs that deserve to die, and boards that are made while events come.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::Took;
use crate::chaos::ChaosError;
use crate::chaos::boards::Board;
use crate::chaos::plan::Kind;
use crate::chaos::world::{GAME, NUISANCE, PATIENCE, REFUSED_TYPE, World};
use crate::queue::Lane;

/// Most boards that are made during a run: each is computed and compared.
const MOST_BOARDS: usize = 8;
/// What no program can read.
const GARBAGE: &[u8] = &[0xff, 9, 9];
/// Decided by the clock that the processes have: by Postgres's, which no run sets, cron would find letters of a run
/// that plays next year too old to keep.
const DISCARD: &str = "UPDATE dead_letters SET state = 'discarded', decided_at = $1 WHERE state = 'waiting'
                          AND game_id IS DISTINCT FROM (SELECT id FROM games WHERE slug = $2)";
/// Those of the nuisance wait for ever.
const WAITING: &str = "SELECT reason FROM dead_letters WHERE state = 'waiting'
                          AND game_id IS DISTINCT FROM (SELECT id FROM games WHERE slug = $1) ORDER BY reason";

/// Others build meanwhile.
const IS_LIVE: &str = "SELECT EXISTS (SELECT FROM leaderboards WHERE live_generation_id IS NOT NULL AND slug = $2
                                AND game_id = (SELECT id FROM games WHERE slug = $1))";

impl World {
    /// A job that cannot be read, and an event that Postgres refuses: each becomes one dead letter, and nothing else
    /// suffers.
    pub(super) async fn deserve_dead_letters(&mut self) -> Result<(), ChaosError> {
        let id = Uuid::new_v4();
        if !self.send_probe(id, REFUSED_TYPE, "p-refused").await? {
            self.report.violated("after deserved-dead-letters: no batch is acknowledged");
            return Ok(());
        }
        self.deserved_dead.insert(id);
        self.push_garbage().await?;
        let wanted = 2;
        let there = async |world: &Self| Ok(world.waiting_letters().await.is_ok_and(|letters| letters.len() >= wanted));
        if self.holds_within(PATIENCE, there).await?.is_none() {
            self.report.violated("jobs that deserve it do not become dead letters");
        }
        self.decide_letters(wanted).await?;
        self.follow_a_probe(Kind::DeservedDeadLetters.name(), Instant::now(), None).await
    }

    /// Queues a job that cannot be read.
    pub(super) async fn push_garbage(&self) -> Result<(), ChaosError> {
        let name = format!("garbage-{}", Uuid::new_v4());
        // The first call after Redis was restarted finds its connection broken. Pushing again is safe.
        let pushed = async |world: &Self| Ok(world.queue.push(Lane::Low, &name, GARBAGE).await.is_ok());
        self.until("a job that cannot be read is queued", PATIENCE, pushed).await
    }

    pub(super) async fn waiting_letters(&self) -> Result<Vec<String>, sqlx::Error> {
        sqlx::query_scalar(WAITING).bind(NUISANCE).fetch_all(&self.pool).await
    }

    /// Looks at the dead letters that wait, of which there must be `wanted`, and gives them up for good, so that they
    /// do not hold up the closing of periods.
    pub(super) async fn decide_letters(&mut self, wanted: usize) -> Result<(), ChaosError> {
        let letters = self.waiting_letters().await?;
        if letters.len() != wanted
            || letters.iter().any(|reason| reason != "data_refused" && reason != "unknown_version")
        {
            self.report.violated(format!("dead letters are not as deserved: {letters:?}"));
        }
        sqlx::query(DISCARD).bind(self.scenario.clock.now()).bind(NUISANCE).execute(&self.pool).await?;
        self.deserved_letters += wanted;
        Ok(())
    }

    /// Makes a leaderboard of all that was stored before and comes meanwhile.
    pub(super) async fn make_board(&mut self) -> Result<Took, ChaosError> {
        if !self.order_board().await? {
            return Ok(Took::No(Kind::NewBoard.name()));
        }
        let since = Instant::now();
        let slug = self.boards.last().map(|board| board.slug().to_owned()).unwrap_or_default();
        let live = async |world: &Self| {
            let live: Result<bool, sqlx::Error> =
                sqlx::query_scalar(IS_LIVE).bind(GAME).bind(&slug).fetch_one(&world.pool).await;
            Ok(live.unwrap_or(false))
        };
        match self.holds_within(PATIENCE, live).await? {
            Some(_) => self.report.recovered(Kind::NewBoard.name(), "a new board is live", since.elapsed(), None),
            None => self.report.violated(format!("a new leaderboard is not live within {PATIENCE:?}")),
        }
        Ok(Took::Place)
    }

    /// Orders a new leaderboard; `false`: there are enough.
    pub(super) async fn order_board(&mut self) -> Result<bool, ChaosError> {
        if self.boards.len() >= MOST_BOARDS {
            return Ok(false);
        }
        let board = Board::later(self.boards.len())?;
        let file = self.stack.home().join(&format!("{}.json", board.slug()));
        std::fs::write(&file, board.json.to_string()).map_err(|e| ChaosError::Io("a leaderboard's file", e))?;
        let file = file.display().to_string();
        let (code, answer) = self.operate(&["leaderboard", "apply", &file, "--game", GAME, "--json"]).await?;
        if code != Some(0) {
            self.report.violated(format!("a leaderboard could not be made: {answer}"));
            return Ok(false);
        }
        self.boards.push(board);
        self.sleep(Duration::ZERO).await?;
        Ok(true)
    }
}
