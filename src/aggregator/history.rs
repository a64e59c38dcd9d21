//! Whether Postgres is still the one that Redis was told of. One that was restored from a backup, or promoted without
//! its last commits, has gone back in time: every board in Redis is rebuilt, closed periods too, and definitions are
//! loaded anew, because its counters may reach numbers that they had before, for something else.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::rules::Rules;
use super::shards::Shards;
use crate::ranking::Ranking;
use crate::services::beacon::{self, BeaconError};
use crate::store::beacons::{self, Beacon};
use crate::store::{Pool, StoreError};
use crate::telemetry::metrics as names;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How old the last beacon may be before the next one is written: with the interval, no older than five seconds.
const BEACON_INTERVAL: Duration = Duration::from_millis(3_500);
/// Who folds this shard writes beacons.
const LEADERS_SHARD: i16 = 0;

/// Watches Postgres's history.
pub struct History<'a> {
    pool: &'a Pool,
    ranking: &'a Ranking,
    rules: &'a Rules,
    era: String,
    written: Option<Instant>,
    /// What was done about a history that Redis could not be told of yet.
    untold: Option<Untold>,
}

/// A history begins: the database does not have the beacon that Redis knows.
struct Untold {
    /// The mark that Redis knows; `None`: it knows none, and nothing was lost.
    known: Option<Uuid>,
    /// The first beacon of the history, which was written when lost ids had been left out.
    begins: Option<Beacon>,
}

impl<'a> History<'a> {
    /// Watches with these. Who keeps boards looks as often, and sees the new era by itself.
    pub fn new(pool: &'a Pool, ranking: &'a Ranking, rules: &'a Rules) -> Self {
        Self { pool, ranking, rules, era: String::new(), written: None, untold: None }
    }

    /// Looks each second until `stop`.
    pub async fn watch(mut self, shards: &Shards, stop: &CancellationToken) {
        let mut healthy = true;
        loop {
            let leads = super::shards::numbers(&shards.held()).contains(&LEADERS_SHARD);
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = self.look(leads) => looked,
            };
            let looked = match looked {
                Ok(()) => self.look_at_unreadable().await.map_err(BeaconError::from),
                failed => failed,
            };
            match looked {
                Ok(()) => healthy = true,
                Err(error) if std::mem::replace(&mut healthy, false) => {
                    tracing::warn!(%error, "cannot tell whether Postgres went back in time; trying each second");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Looks once. Who `leads` asks Postgres and writes beacons; everybody follows what Redis was told.
    ///
    /// # Errors
    /// [`BeaconError`]: the next look finds out.
    pub async fn look(&mut self, leads: bool) -> Result<(), BeaconError> {
        let mut known = self.ranking.beacon().await?;
        if leads {
            let stands = match &known {
                Some(known) => {
                    let beacon = Beacon { sequence: known.sequence, mark: known.mark };
                    beacons::stands(self.pool, &beacon).await?
                }
                None => false,
            };
            if !stands {
                // Before the era begins: what fails after it would not be repeated.
                let Beacon { sequence, mark } = self.begin_history(known.as_ref().map(|known| known.mark)).await?;
                let began = self.ranking.begin_era(known.as_ref(), sequence, mark).await?;
                if began && known.is_some() {
                    metrics::counter!(names::POSTGRES_WENT_BACK, "role" => "cron").increment(1);
                    tracing::error!("Postgres has gone back in time; every leaderboard in Redis is rebuilt");
                }
                self.written = began.then(Instant::now);
                known = self.ranking.beacon().await?;
            } else if self.written.is_none_or(|at| at.elapsed() > BEACON_INTERVAL) {
                beacon::attest(self.pool, self.ranking).await?;
                self.written = Some(Instant::now());
            }
        }
        let era = known.map(|known| known.era).unwrap_or_default();
        if era != self.era {
            self.rules.reload().await?;
            self.era = era;
        }
        Ok(())
    }

    /// Leaves lost ids out and writes a beacon. While Redis cannot be told of it this is asked each second: what was
    /// done is not done again, unless the database has gone back once more. Ids would run out within hours.
    async fn begin_history(&mut self, known: Option<Uuid>) -> Result<Beacon, StoreError> {
        match &self.untold {
            Some(Untold { known: told, begins: Some(beacon) })
                if *told == known && beacons::stands(self.pool, beacon).await? =>
            {
                return Ok(*beacon);
            }
            Some(Untold { known: told, begins: None }) if *told == known => {}
            _ => {
                if known.is_some() {
                    beacons::leave_out_lost_ids(self.pool).await?;
                }
                self.untold = Some(Untold { known, begins: None });
            }
        }
        let beacon = beacons::write(self.pool).await?;
        self.untold = Some(Untold { known, begins: Some(beacon) });
        Ok(beacon)
    }

    /// Definitions that cannot be read are looked at again, since nobody may say when they can; what was put aside for
    /// them is then brought back (`bring_back.rs`).
    async fn look_at_unreadable(&self) -> Result<(), StoreError> {
        if !self.rules.current().unreadable.is_empty() {
            self.rules.reload().await?;
        }
        metrics::gauge!(names::UNREADABLE_LEADERBOARDS, "role" => "cron")
            .set(self.rules.current().unreadable.len() as f64);
        Ok(())
    }
}
