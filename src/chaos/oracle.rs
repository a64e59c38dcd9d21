//! What must be true when everything is healed and quiet.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::ChaosError;
use super::accounts::Account;
use super::boards::{Board, Standings, StoredEvent};
use super::sent::differences;
use super::world::{GAME, World};
use crate::bench::load::Connection;
use crate::domain::clock::Micros;

/// How long what was under way may take at the end.
const QUIET_WITHIN: Duration = Duration::from_secs(90);
/// How long the last notices may be on their way to the api.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// Names that one violation lists.
const NAMED: usize = 5;

impl World {
    /// Waits until nothing is under way, then compares; what differs is noted in the report.
    ///
    /// # Errors
    /// Something that must answer does not.
    pub async fn judge(&mut self, account: &Account) -> Result<(), ChaosError> {
        if self.holds_within(QUIET_WITHIN, async |world| Ok(world.is_quiet().await)).await?.is_none() {
            let status = self.queue.status().await.map(|status| format!("{status:?}")).unwrap_or_default();
            self.report.violated(format!("work is still under way {QUIET_WITHIN:?} after the last fault: {status}"));
        }
        let events = self.stored_events().await?;
        self.compare_events(account, &events);
        self.compare_letters().await?;
        for board in self.boards.clone() {
            self.compare_board(&board, &board.standings(&events)).await?;
        }
        let (code, answer) = self.operate(&["audit", "--json"]).await?;
        if code != Some(0) || answer["clean"] != true {
            self.report.violated(format!("`scoreline audit` found differences (exit code {code:?}): {answer}"));
        }
        Ok(())
    }

    async fn stored_events(&self) -> Result<Vec<StoredEvent>, ChaosError> {
        let rows: Vec<(Uuid, Micros, Micros, String, String, i64, String, bool)> = sqlx::query_as(
            "SELECT event_id, occurred_at, received_at, type, player_id, coalesce((payload->>'score')::bigint, 0),
                    payload::text, from_server AND session_id IS NULL AND schema_version IS NULL
                       AND game_id = (SELECT id FROM games WHERE slug = $1)
               FROM events",
        )
        .bind(GAME)
        .fetch_all(&self.pool)
        .await?;
        let event = |(id, occurred_at, received_at, kind, player, score, payload, bare)| StoredEvent {
            id,
            occurred_at,
            received_at,
            kind,
            player,
            score,
            payload,
            bare,
        };
        Ok(rows.into_iter().map(event).collect())
    }

    fn compare_events(&mut self, account: &Account, events: &[StoredEvent]) {
        self.report.violations.extend(differences(account, &self.deserved_dead, events));
        let stored: HashSet<Uuid> = events.iter().map(|event| event.id).collect();
        let unanswered = account.sent.difference(&account.acknowledged);
        let counts = &mut self.report.events;
        counts.sent = account.sent.len();
        counts.acknowledged = account.acknowledged.len();
        counts.unanswered = counts.sent - counts.acknowledged;
        counts.stored_unanswered = unanswered.filter(|id| stored.contains(*id)).count();
        counts.stored = events.len();
        counts.deserved_dead = self.deserved_dead.len();
    }

    async fn compare_letters(&mut self) -> Result<(), ChaosError> {
        let letters: Vec<(String, String, String)> =
            sqlx::query_as("SELECT state, reason, error FROM dead_letters ORDER BY died_at")
                .fetch_all(&self.pool)
                .await?;
        let undecided = letters.iter().filter(|(state, ..)| state == "waiting").count();
        if undecided > 0 || letters.len() != self.deserved_letters {
            let some = &letters[..letters.len().min(NAMED)];
            let (all, deserved) = (letters.len(), self.deserved_letters);
            self.report.violated(format!("{all} jobs became dead letters, {deserved} deserve it: {some:?}"));
        }
        Ok(())
    }

    /// A board as the api shows it, period by period, against what the stored events say.
    async fn compare_board(&mut self, board: &Board, expected: &Standings) -> Result<(), ChaosError> {
        let periods: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT p.id, (extract(epoch FROM p.starts_at) * 1000000)::bigint
               FROM leaderboards l JOIN leaderboard_periods p ON p.generation_id = l.live_generation_id
              WHERE l.slug = $1 ORDER BY p.starts_at",
        )
        .bind(board.slug())
        .fetch_all(&self.pool)
        .await?;
        let known: HashSet<i64> = periods.iter().map(|(_, starts_at)| *starts_at).collect();
        for (starts_at, players) in expected {
            if !known.contains(&starts_at.0) {
                let (slug, count) = (board.slug(), players.len());
                self.report.violated(format!("board {slug} lacks the period from {starts_at} with {count} players"));
            }
        }
        let nobody = BTreeMap::new();
        for (id, starts_at) in periods {
            let wanted = expected.get(&Micros(starts_at)).unwrap_or(&nobody);
            if let Err(what) = self.compare_period(board.slug(), id, wanted).await? {
                let (slug, starts_at) = (board.slug(), Micros(starts_at));
                self.report.violated(format!("board {slug}, period from {starts_at}: {what}"));
            }
        }
        Ok(())
    }

    async fn compare_period(
        &self,
        slug: &str,
        period: i64,
        wanted: &BTreeMap<String, i64>,
    ) -> Result<Result<(), String>, ChaosError> {
        let since = Instant::now();
        loop {
            let shown = shown(self.rig.api, &self.key, slug, period).await;
            let problem = match &shown {
                Ok(shown) if shown == wanted => return Ok(Ok(())),
                Ok(shown) => difference(shown, wanted),
                Err(problem) => problem.clone(),
            };
            if since.elapsed() > NOTICED_WITHIN {
                return Ok(Err(problem));
            }
            self.sleep(Duration::from_millis(50)).await?;
        }
    }
}

fn difference(shown: &BTreeMap<String, i64>, wanted: &BTreeMap<String, i64>) -> String {
    let players: HashSet<&String> = shown.keys().chain(wanted.keys()).collect();
    let mut differing: Vec<&String> = players.into_iter().filter(|p| shown.get(*p) != wanted.get(*p)).collect();
    differing.sort_unstable();
    let (count, some) = (differing.len(), &differing[..differing.len().min(NAMED)]);
    let described: Vec<String> =
        some.iter().map(|p| format!("{p}: shown {:?}, the events say {:?}", shown.get(*p), wanted.get(*p))).collect();
    format!("{count} of {} players differ: {}", wanted.len(), described.join("; "))
}

/// Everyone in a period with their score, page by page; the error says what was not right.
async fn shown(api: std::net::SocketAddr, key: &str, slug: &str, period: i64) -> Result<BTreeMap<String, i64>, String> {
    let mut connection = Connection::open(api).await.map_err(|e| e.to_string())?;
    let mut shown = BTreeMap::new();
    let mut path = format!("/v1/leaderboards/{slug}/entries?limit=150&period={period}");
    let mut last = (0, i64::MAX);
    loop {
        let (status, body) = connection.get(&path, key).await.map_err(|e| e.to_string())?;
        if status != 200 {
            return Err(format!("{status}: {}", String::from_utf8_lossy(body)));
        }
        let page: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        for entry in page["entries"].as_array().into_iter().flatten() {
            let (rank, score) = (entry["rank"].as_u64(), entry["score"].as_i64());
            let (Some(rank), Some(score), Some(player)) = (rank, score, entry["player_id"].as_str()) else {
                return Err(format!("{entry} is no entry"));
            };
            if rank != last.0 + 1 || score > last.1 {
                return Err(format!("{entry} stands after rank {} with {}", last.0, last.1));
            }
            last = (rank, score);
            shown.insert(player.to_owned(), score);
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/leaderboards/{slug}/entries?limit=150&period={period}&cursor={cursor}"),
            None => return Ok(shown),
        }
    }
}
