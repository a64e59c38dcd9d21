//! Boards in Redis against the entries in Postgres, while scores go on.
//!
//! Versions are compared, not moments: what Postgres had when it was asked Redis must have once the markers that waited
//! then are published, or something newer; and whatever Redis has Postgres had before. So a busy board is no drift, and
//! neither is a backlog: what is not published yet cannot be judged.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::AuditError;
use crate::domain::board::{CompiledBoard, TiePolicy};
use crate::domain::period::Period;
use crate::domain::ranking_key::Standing;
use crate::ranking::{BoardPeriod, HeldEntry, Ranking};
use crate::store::Pool;
use crate::store::audit::{self, AuditPeriod};
use crate::store::entries;
use crate::store::markers::Awaited;

/// Entries compared at once.
const CHUNK: i64 = 500;
/// Periods of a board from which a periodic audit takes players that Redis has, and how many of each.
const PERIODS_FROM_REDIS: usize = 10;
const PLAYERS_FROM_REDIS: usize = 20;
/// How long a look waits for markers to be published.
const PATIENCE: Duration = Duration::from_secs(5);

/// Redis against entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct RedisAudit {
    /// Entries compared one by one.
    pub compared: u64,
    /// In Postgres and not in Redis.
    pub missing: u64,
    /// In both, and not the same.
    pub different: u64,
    /// In Redis beyond what Postgres has.
    pub extra: u64,
    /// Not to be judged: their publication was on its way for too long.
    pub undecided: u64,
    /// The board was written anew.
    pub repaired: bool,
}

impl RedisAudit {
    /// How many entries differed.
    pub fn drift(&self) -> u64 {
        self.missing + self.different + self.extra
    }
}

/// Players by period, to be compared.
pub type Sampled = HashMap<i64, (AuditPeriod, Vec<String>)>;

/// Standings as Postgres has them, with their versions.
type Stored = HashMap<String, (Standing, i64)>;

/// What a comparison looks at.
pub(super) struct Look<'a> {
    pub(super) pool: &'a Pool,
    pub(super) ranking: &'a Ranking,
    pub(super) board: &'a CompiledBoard,
    pub(super) stop: &'a CancellationToken,
    /// Publication was too far behind once: nothing is waited for any more.
    pub(super) behind: AtomicBool,
}

impl Look<'_> {
    /// Compares every entry of every period that belongs in Redis, and what Redis has beyond them.
    pub(super) async fn at_everything(&self) -> Result<RedisAudit, AuditError> {
        let mut found = RedisAudit::default();
        if !self.is_there().await? {
            return Ok(found);
        }
        for period in self.periods().await? {
            let mut after = String::new();
            loop {
                let chunk = entries::chunk(self.pool, period.id, &after, CHUNK).await?;
                let full = chunk.len() as i64 == CHUNK;
                let last = chunk.last().map(|entry| entry.player_id.clone());
                let stored = chunk.into_iter().map(|e| (e.player_id, (e.standing, e.version))).collect();
                self.compare(&period, stored, &mut found).await?;
                match last {
                    Some(last) if full && !self.stop.is_cancelled() => after = last,
                    _ => break,
                }
            }
            self.compare_all_of_redis(&period, &mut found).await?;
        }
        self.count(&mut found).await?;
        self.is_there().await.map(|there| if there { found } else { RedisAudit::default() })
    }

    /// Compares these players, some that Redis has, and every count.
    pub(super) async fn at_a_sample(&self, sampled: Sampled) -> Result<RedisAudit, AuditError> {
        let mut found = RedisAudit::default();
        if !self.is_there().await? {
            return Ok(found);
        }
        for (period, players) in sampled.into_values() {
            for players in players.chunks(CHUNK as usize) {
                let players: Vec<&str> = players.iter().map(String::as_str).collect();
                let stored = self.stored(&period, &players).await?;
                self.compare(&period, stored, &mut found).await?;
            }
        }
        let some = self.ranking.some_periods(self.board.generation.id, PERIODS_FROM_REDIS).await?;
        for period in self.periods().await?.iter().filter(|period| some.contains(&period.period)) {
            let players = self.ranking.some_players(&self.place(period), PLAYERS_FROM_REDIS).await?;
            let stored = self.compare_of_redis(period, &players, &mut found).await?;
            self.compare(period, stored, &mut found).await?;
        }
        self.count(&mut found).await?;
        self.is_there().await.map(|there| if there { found } else { RedisAudit::default() })
    }

    /// Whether Redis holds the board: if not, the aggregator sees to it, and there is nothing to compare.
    async fn is_there(&self) -> Result<bool, AuditError> {
        Ok(self.ranking.version(self.board.generation.id).await?.is_some())
    }

    /// The periods that belong in Redis.
    async fn periods(&self) -> Result<Vec<AuditPeriod>, AuditError> {
        let mut connection = self.pool.acquire().await?;
        Ok(audit::published_periods(&mut connection, self.board.generation.id).await?)
    }

    fn place(&self, period: &AuditPeriod) -> BoardPeriod {
        BoardPeriod {
            generation: self.board.generation.id,
            period: period.period,
            order: self.board.generation.spec.definition.order,
            tie_policy: TiePolicy::Ordinal,
        }
    }

    async fn stored(&self, period: &AuditPeriod, players: &[&str]) -> Result<Stored, AuditError> {
        let mut connection = self.pool.acquire().await?;
        let rows = entries::read(&mut connection, &vec![period.id; players.len()], players).await?;
        let entry = |(n, entry): &(usize, entries::StoredEntry)| {
            Some(((*players.get(*n)?).to_owned(), (entry.state.published(), entry.version)))
        };
        Ok(rows.iter().filter_map(entry).collect())
    }

    /// Compares players with what Postgres had of them a moment ago.
    async fn compare(&self, period: &AuditPeriod, stored: Stored, found: &mut RedisAudit) -> Result<(), AuditError> {
        found.compared += stored.len() as u64;
        let (mut suspects, mut missing) = (stored, 0);
        for published in [false, true] {
            if suspects.is_empty() || self.stop.is_cancelled() {
                return Ok(());
            }
            if published && !self.all_published().await? {
                found.undecided += suspects.len() as u64;
                return Ok(());
            }
            let players: Vec<String> = suspects.keys().cloned().collect();
            let players: Vec<&str> = players.iter().map(String::as_str).collect();
            let held = self.ranking.held(&self.place(period), &players).await?.entries;
            // What Redis has Postgres has had before this.
            let now = self.stored(period, &players).await?;
            missing = held.iter().filter(|held| held.is_none()).count() as u64;
            for (player, held) in players.iter().zip(&held) {
                if self.agree(suspects.get(*player), now.get(*player), held.as_ref()) {
                    suspects.remove(*player);
                }
            }
        }
        if !suspects.is_empty() && self.is_published(period).await? {
            found.missing += missing;
            found.different += suspects.len() as u64 - missing;
        }
        Ok(())
    }

    /// Whether the period still belongs in Redis: one that was closed long ago leaves it some time.
    async fn is_published(&self, period: &AuditPeriod) -> Result<bool, AuditError> {
        let mut connection = self.pool.acquire().await?;
        Ok(audit::is_published(&mut connection, period.id).await?)
    }

    /// Whether what Redis holds is what Postgres had `before`, or what it has had since.
    fn agree(&self, before: Option<&(Standing, i64)>, now: Option<&(Standing, i64)>, held: Option<&HeldEntry>) -> bool {
        let order = self.board.generation.spec.definition.order;
        let (Some((standing, version)), Some(held)) = (before, held) else { return false };
        if held.version == *version {
            return held.is(standing, order);
        }
        let Some((newest, newest_version)) = now.filter(|_| held.version > *version) else { return false };
        match newest_version.cmp(&held.version) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => held.is(newest, order),
            std::cmp::Ordering::Greater => held.in_place,
        }
    }

    /// Compares players that Redis has: some of them may be nobody's.
    async fn compare_of_redis(
        &self,
        period: &AuditPeriod,
        players: &[String],
        found: &mut RedisAudit,
    ) -> Result<Stored, AuditError> {
        let players: Vec<&str> = players.iter().map(String::as_str).collect();
        let stored = self.stored(period, &players).await?;
        let ghosts: Vec<&str> = players.into_iter().filter(|player| !stored.contains_key(*player)).collect();
        if !ghosts.is_empty() && !self.stop.is_cancelled() && self.is_published(period).await? {
            // Whose entry is in Redis had one in Postgres before.
            let held = self.ranking.held(&self.place(period), &ghosts).await?.entries;
            found.extra += held.iter().flatten().count() as u64;
        }
        Ok(stored)
    }

    /// Looks for everybody that Redis has.
    async fn compare_all_of_redis(&self, period: &AuditPeriod, found: &mut RedisAudit) -> Result<(), AuditError> {
        let mut cursor = 0;
        loop {
            let players;
            (cursor, players) = self.ranking.players_from(&self.place(period), cursor, CHUNK as usize).await?;
            for players in players.chunks(CHUNK as usize) {
                self.compare_of_redis(period, players, found).await?;
            }
            if cursor == 0 || self.stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Waits until whatever waits now is published; `false`: that took too long. It keeps no connection meanwhile:
    /// whoever publishes needs one of the few.
    async fn all_published(&self) -> Result<bool, AuditError> {
        let began = tokio::time::Instant::now();
        let mut markers = Awaited::now(&mut *self.pool.acquire().await?).await?;
        while markers.wait(&mut *self.pool.acquire().await?).await? {
            if began.elapsed() >= PATIENCE || self.behind.load(Ordering::Relaxed) || self.stop.is_cancelled() {
                self.behind.store(true, Ordering::Relaxed);
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }

    /// Compares how many entries each period has, and which periods there are.
    async fn count(&self, found: &mut RedisAudit) -> Result<(), AuditError> {
        let generation = self.board.generation.id;
        let listed = self.ranking.held_periods(generation).await?;
        let periods = self.periods().await?;
        let before = self.counts_of_entries(&periods).await?;
        let judged = self.all_published().await?;
        let names: Vec<Period> = periods.iter().map(|period| period.period).collect();
        let held = self.ranking.count(generation, &names).await?;
        // What Redis has Postgres has had before this; and what Redis has not may have left it meanwhile.
        let after = self.counts_of_entries(&periods).await?;
        let published: HashSet<i64> = self.periods().await?.into_iter().map(|period| period.id).collect();
        let (mut missing, mut extra) = (0, 0);
        for (period, (ranked, known)) in periods.iter().zip(held).filter(|(period, _)| published.contains(&period.id)) {
            let of = |counts: &HashMap<i64, u64>| counts.get(&period.id).copied().unwrap_or(0);
            missing += of(&before).saturating_sub(ranked.min(known));
            extra += ranked.max(known).saturating_sub(of(&after));
        }
        extra += self.periods_beyond(&listed, &names).await?;
        if self.stop.is_cancelled() {
            return Ok(());
        }
        // The same entries as were found one by one, or more of them.
        if judged {
            found.missing = found.missing.max(missing);
        } else {
            found.undecided = found.undecided.max(missing);
        }
        found.extra = found.extra.max(extra);
        Ok(())
    }

    async fn counts_of_entries(&self, periods: &[AuditPeriod]) -> Result<HashMap<i64, u64>, AuditError> {
        let ids: Vec<i64> = periods.iter().map(|period| period.id).collect();
        let mut connection = self.pool.acquire().await?;
        Ok(audit::counts(&mut connection, &ids).await?)
    }

    /// Entries of periods that Redis holds and should not. `listed` was asked before Postgres was.
    async fn periods_beyond(&self, listed: &[Period], names: &[Period]) -> Result<u64, AuditError> {
        let generation = self.board.generation.id;
        let names: HashSet<&Period> = names.iter().collect();
        let mut beyond: Vec<Period> = listed.iter().filter(|period| !names.contains(period)).copied().collect();
        if beyond.is_empty() {
            return Ok(0);
        }
        // One that was closed and removed meanwhile is gone now.
        let still: HashSet<Period> = self.ranking.held_periods(generation).await?.into_iter().collect();
        beyond.retain(|period| still.contains(period));
        let counts = self.ranking.count(generation, &beyond).await?;
        Ok(counts.into_iter().map(|(ranked, known)| ranked.max(known).max(1)).sum())
    }
}
