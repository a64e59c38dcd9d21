//! How soon work goes on: one event from its request to its place on a leaderboard.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::ChaosError;
use super::sent::Sent;
use super::world::World;
use crate::bench::load::Connection;

/// After Redis or Postgres is back, jobs run within this time (README, "What is promised").
pub const DEPENDENCY_BOUND: Duration = Duration::from_secs(5);
/// A killed worker's jobs run again within this time (README, "What is promised").
pub const WORKER_BOUND: Duration = Duration::from_secs(15);
/// How long a probe is followed.
const FOLLOWED: Duration = Duration::from_secs(40);
/// How long a probe waits for one answer.
const ANSWER: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(30);

impl World {
    /// Sends an event and follows it until it is stored and shown, while every process is asked whether it is ready;
    /// notes how long after `since` each was, held against `promised`.
    ///
    /// # Errors
    /// Postgres, asked directly, does not answer; [`ChaosError::Interrupted`].
    pub async fn follow_a_probe(
        &mut self,
        after: &'static str,
        since: Instant,
        promised: Option<Duration>,
    ) -> Result<(), ChaosError> {
        let readiness = self.ask_readiness(since);
        self.follow(after, since, promised).await?;
        self.note_readiness(after, readiness, promised).await
    }

    async fn follow(
        &mut self,
        after: &'static str,
        since: Instant,
        promised: Option<Duration>,
    ) -> Result<(), ChaosError> {
        let id = Uuid::new_v4();
        let player = format!("probe-{}", id.simple());
        if !self.send_probe(id, "game_ended", &player).await? {
            self.report.violated(format!("after {after}: no batch is acknowledged within {FOLLOWED:?}"));
            return Ok(());
        }
        self.report.recovered(after, "acknowledged", since.elapsed(), promised);
        let stored = async |world: &Self| Ok(world.is_stored(id).await.unwrap_or(false));
        if self.holds_within(FOLLOWED, stored).await?.is_none() {
            self.report.violated(format!("after {after}: an acknowledged event is not stored within {FOLLOWED:?}"));
            return Ok(());
        }
        self.report.recovered(after, "stored", since.elapsed(), promised);
        let shown = async |world: &Self| Ok(world.is_shown(&player).await);
        if self.holds_within(FOLLOWED, shown).await?.is_none() {
            self.report.violated(format!("after {after}: a stored score is not shown within {FOLLOWED:?}"));
            return Ok(());
        }
        self.report.recovered(after, "shown", since.elapsed(), promised);
        Ok(())
    }

    /// Sends one event until it is acknowledged; `false` when nobody does for too long.
    ///
    /// # Errors
    /// [`ChaosError::Interrupted`].
    pub async fn send_probe(&mut self, id: Uuid, kind: &'static str, player: &str) -> Result<bool, ChaosError> {
        let began = Instant::now();
        let body = self.probe(id, kind, player);
        while began.elapsed() < FOLLOWED {
            self.probes.requests += 1;
            match self.post(&body).await {
                Some((202, answer)) if answer["accepted"] == 1 => {
                    self.probes.acknowledged.insert(id);
                    return Ok(true);
                }
                Some((503, _)) => self.probes.refused += 1,
                Some((400 | 408, answer))
                    if answer["code"] == "body_incomplete" || answer["code"] == "body_timeout" =>
                {
                    self.probes.refused += 1;
                }
                Some((status, answer)) => {
                    self.report.violated(format!("a good event was answered {status}: {answer}"));
                    return Ok(true);
                }
                None => self.probes.unanswered += 1,
            }
            self.sleep(AGAIN).await?;
        }
        Ok(false)
    }

    /// A batch of one event, which is noted as sent.
    fn probe(&mut self, id: Uuid, kind: &'static str, player: &str) -> String {
        let sent = Sent { kind, player: player.into(), occurred_at: self.scenario.clock.now(), score: 1 };
        let body = Value::Array(vec![sent.event(id)]).to_string();
        self.probes.note(id, sent);
        body
    }

    /// Whether ingest refuses an event with this code.
    pub async fn is_refused_as(&mut self, code: &str) -> bool {
        let id = Uuid::new_v4();
        let body = self.probe(id, "level_progress", "p");
        self.probes.requests += 1;
        match self.post(&body).await {
            Some((202, _)) => {
                self.probes.acknowledged.insert(id);
                false
            }
            Some((503, answer)) => {
                self.probes.refused += 1;
                answer["code"] == code
            }
            Some(_) => false,
            None => {
                self.probes.unanswered += 1;
                false
            }
        }
    }

    /// Whether a process says that it is ready.
    pub async fn is_ready(&self, name: &str) -> bool {
        self.readiness(name).await.is_some_and(|(status, _)| status == 200)
    }

    /// Whether a process says that it is not ready, with these words.
    pub async fn complains(&self, name: &str, words: &str) -> bool {
        self.readiness(name).await.is_some_and(|(status, text)| status != 200 && text.contains(words))
    }

    /// Whether a process says that it is not ready.
    pub async fn says_unready(&self, name: &str) -> bool {
        self.readiness(name).await.is_some_and(|(status, _)| status != 200)
    }

    async fn readiness(&self, name: &str) -> Option<(u16, String)> {
        let address = self.rig.operations(name)?;
        let exchange = async {
            let mut connection = Connection::open(address).await.ok()?;
            let (status, body) = connection.get("/readyz", "").await.ok()?;
            Some((status, String::from_utf8_lossy(body).into_owned()))
        };
        tokio::time::timeout(ANSWER, exchange).await.ok().flatten()
    }

    async fn post(&self, body: &str) -> Option<(u16, Value)> {
        let exchange = async {
            let mut connection = Connection::open(self.ingest()).await.ok()?;
            let (status, answer) = connection.exchange("/v1/events", &self.key, body.as_bytes()).await.ok()?;
            Some((status, serde_json::from_slice(answer).unwrap_or_default()))
        };
        tokio::time::timeout(ANSWER, exchange).await.ok().flatten()
    }

    /// Whether an event is stored.
    pub async fn is_stored(&self, id: Uuid) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM events WHERE event_id = $1)")
            .bind(id)
            .fetch_one(&self.pool)
            .await
    }

    /// How many entries a leaderboard has, as the api says.
    pub async fn total_of(&self, slug: &str) -> Option<u64> {
        let exchange = async {
            let mut connection = Connection::open(self.rig.api).await.ok()?;
            let path = format!("/v1/leaderboards/{slug}/entries?limit=1");
            let (status, body) = connection.get(&path, &self.key).await.ok()?;
            let page: Value = serde_json::from_slice(body).ok().filter(|_| status == 200)?;
            page["total"].as_u64()
        };
        tokio::time::timeout(ANSWER, exchange).await.ok().flatten()
    }

    async fn is_shown(&self, player: &str) -> bool {
        let exchange = async {
            let mut connection = Connection::open(self.api()).await.ok()?;
            let path = format!("/v1/leaderboards/best/entries/{player}");
            let (status, _) = connection.get(&path, &self.key).await.ok()?;
            Some(status)
        };
        tokio::time::timeout(ANSWER, exchange).await.ok().flatten() == Some(200)
    }
}
