//! A Postgres that goes back in time, or does not: a backup put in its place, a stand-by that takes over.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Took, between};
use crate::chaos::ChaosError;
use crate::chaos::plan::Kind;
use crate::chaos::probe::DEPENDENCY_BOUND;
use crate::chaos::world::{GAME, NUISANCE, PATIENCE, World};

/// How long boards may take until they show what is stored, after that went back.
const MENDED_WITHIN: Duration = Duration::from_secs(40);

impl World {
    /// Copies Postgres, and a while later puts the copy in its place, under the eyes of the processes or while they are
    /// stopped.
    pub(super) async fn restore_backup(&mut self, random: &mut StdRng) -> Result<Took, ChaosError> {
        if !self.take_copy(false).await? {
            return Ok(Took::No(Kind::PostgresRestored.name()));
        }
        self.sleep(between(random, 2_000, 8_000)).await?;
        let names = if random.random_bool(0.3) { self.all_names() } else { Vec::new() };
        for name in &names {
            self.terminate(name).await?;
        }
        self.excused.store(true, Ordering::Relaxed);
        self.stack.stop_postgres_immediately().await;
        self.exchange_copy()?;
        let slept = self.sleep(between(random, 0, 3_000)).await;
        self.report.restarts += 1 + names.len() as u64;
        self.stack.start_postgres_again().await?;
        slept?;
        let since = Instant::now();
        for name in &names {
            self.spawn(name, &[])?;
        }
        for name in &names {
            self.ready(name).await?;
        }
        self.went_back(Kind::PostgresRestored, since, if names.is_empty() { Some(DEPENDENCY_BOUND) } else { None })
            .await?;
        Ok(Took::Place)
    }

    /// Kills Postgres under load and lets a stand-by take over, which answers and does not write for a while before.
    /// `synchronous`: it has everything that was answered. Otherwise it lags behind.
    pub(super) async fn promote(&mut self, synchronous: bool, random: &mut StdRng) -> Result<Took, ChaosError> {
        let kind = if synchronous { Kind::PostgresPromoted } else { Kind::PostgresPromotedBehind };
        if !self.take_copy(true).await? {
            return Ok(Took::No(kind.name()));
        }
        if let Some(copy) = &mut self.copy {
            copy.start().await?;
        }
        if synchronous {
            self.administer("ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
        }
        self.until("the stand-by follows", PATIENCE, async |world| Ok(world.is_followed(synchronous).await)).await?;
        self.sleep(between(random, 1_000, 4_000)).await?;
        if !synchronous {
            self.stop_following().await?;
            self.sleep(between(random, 500, 3_000)).await?;
        }
        self.excused.store(!synchronous, Ordering::Relaxed);
        self.stack.stop_postgres_immediately().await;
        // On the server's port it would otherwise follow itself.
        self.stop_following().await?;
        if let Some(copy) = &mut self.copy {
            copy.stop().await;
        }
        self.exchange_copy()?;
        self.report.restarts += 1;
        self.stack.start_postgres_again().await?;
        let slept = self.sleep(between(random, 0, 12_000)).await;
        // To wait in the statement would keep a snapshot, for which the rest of the log may end it.
        sqlx::query("SELECT pg_promote(false)").execute(&self.admin).await?;
        self.until("the stand-by has taken over", PATIENCE, async |world| Ok(world.has_taken_over().await)).await?;
        self.administer("ALTER SYSTEM RESET primary_conninfo").await?;
        slept?;
        let since = Instant::now();
        if synchronous {
            self.forget_copy().await?;
            self.follow_a_probe(kind.name(), since, Some(DEPENDENCY_BOUND)).await?;
        } else {
            self.went_back(kind, since, Some(DEPENDENCY_BOUND)).await?;
        }
        Ok(Took::Place)
    }

    /// `false`: there is no program for it.
    async fn take_copy(&mut self, stand_by: bool) -> Result<bool, ChaosError> {
        let Some(postgres) = self.stack.postgres().filter(|postgres| postgres.can_be_copied()) else {
            return Ok(false);
        };
        self.copy = Some(self.answered("pg_basebackup", PATIENCE, postgres.copy(stand_by)).await?);
        Ok(true)
    }

    fn exchange_copy(&mut self) -> Result<(), ChaosError> {
        if let (Some(postgres), Some(copy)) = (self.stack.postgres_mut(), &mut self.copy) {
            postgres.exchange(copy)?;
        }
        Ok(())
    }

    async fn forget_copy(&mut self) -> Result<(), ChaosError> {
        match self.copy.take() {
            Some(copy) => Ok(copy.remove().await?),
            None => Ok(()),
        }
    }

    async fn is_followed(&self, synchronous: bool) -> bool {
        let follows = "SELECT EXISTS (SELECT FROM pg_stat_replication
                        WHERE state = 'streaming' AND (sync_state = 'sync' OR NOT $1))";
        sqlx::query_scalar(follows).bind(synchronous).fetch_one(&self.admin).await.unwrap_or(false)
    }

    async fn has_taken_over(&self) -> bool {
        let asked = sqlx::query_scalar("SELECT NOT pg_is_in_recovery()").fetch_one(&self.admin).await;
        asked.unwrap_or(false)
    }

    async fn stop_following(&self) -> Result<(), ChaosError> {
        let Some(copy) = &self.copy else { return Ok(()) };
        let mut connection = PgConnection::connect_with(&copy.admin()).await?;
        for statement in ["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"] {
            sqlx::raw_sql(statement).execute(&mut connection).await?;
        }
        Ok(connection.close().await?)
    }

    /// After Postgres went back: work goes on, boards show what is stored now, and what was lost is named.
    async fn went_back(&mut self, kind: Kind, since: Instant, promised: Option<Duration>) -> Result<(), ChaosError> {
        self.follow_a_probe(kind.name(), since, promised).await?;
        self.name_the_lost().await?;
        let mended = async |world: &Self| world.best_is_as_stored().await;
        match self.holds_within(MENDED_WITHIN, mended).await? {
            Some(_) => self.report.recovered(kind.name(), "boards show what is stored", since.elapsed(), None),
            None => self.report.violated(format!("after {}: boards do not show what is stored", kind.name())),
        }
        self.excused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What was committed before and is not there now. The events that still wait in Redis come again.
    async fn name_the_lost(&mut self) -> Result<(), ChaosError> {
        let Some(copy) = &mut self.copy else { return Ok(()) };
        copy.start().await?;
        let mut before = PgConnection::connect_with(&copy.admin()).await?;
        let ids = "SELECT event_id FROM events";
        let mut gone: HashSet<Uuid> = sqlx::query_scalar(ids).fetch_all(&mut before).await?.into_iter().collect();
        drop(before);
        let now: Vec<Uuid> = sqlx::query_scalar(ids).fetch_all(&self.admin).await?;
        now.iter().for_each(|id| {
            gone.remove(id);
        });
        tracing::info!(events = gone.len(), "lost with what came after the copy");
        self.may_lose.extend(gone);
        let letters = "SELECT count(*) FROM dead_letters
                        WHERE state <> 'waiting'
                          AND game_id IS DISTINCT FROM (SELECT id FROM games WHERE slug = $1)";
        let letters: i64 = sqlx::query_scalar(letters).bind(NUISANCE).fetch_one(&self.admin).await?;
        self.deserved_letters = usize::try_from(letters).unwrap_or_default();
        self.forget_copy().await
    }

    /// Whether the board that only grows has as many entries as the stored events have players.
    async fn best_is_as_stored(&self) -> Result<bool, ChaosError> {
        let players = "SELECT count(DISTINCT player_id) FROM events
                        WHERE type = 'game_ended' AND game_id = (SELECT id FROM games WHERE slug = $1)";
        let players: i64 = sqlx::query_scalar(players).bind(GAME).fetch_one(&self.admin).await?;
        Ok(self.total_of("best").await == Some(players.unsigned_abs()))
    }
}
