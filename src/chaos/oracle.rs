//! What must be true when everything is healed and quiet.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::ChaosError;
use super::accounts::Account;
use super::boards::{Board, Standings, StoredEvent};
use super::sent::differences;
use super::shown::{Place, shown};
use super::world::{GAME, NUISANCE, World};
use crate::domain::clock::Micros;
use crate::domain::period::Period;

/// How long what was under way may take at the end.
const QUIET_WITHIN: Duration = Duration::from_secs(90);
/// How long the last notices may be on their way to the api.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may take that nothing disturbs.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// What Postgres's log says of one deadlock.
const DEADLOCK_LINES: usize = 12;
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
        self.look_for_deadlocks();
        for board in self.boards.clone() {
            self.compare_board(&board, &board.standings(&events)).await?;
        }
        let (code, answer) = self.operate(&["audit", "--json"]).await?;
        if code != Some(0) || answer["clean"] != true {
            self.report.violated(format!("`scoreline audit` found differences (exit code {code:?}): {answer}"));
        }
        let readiness = self.ask_readiness(Instant::now());
        self.note_readiness("everything", readiness, None).await?;
        self.report.judged = true;
        Ok(())
    }

    async fn stored_events(&self) -> Result<Vec<StoredEvent>, ChaosError> {
        let rows = sqlx::query_as(
            "SELECT event_id, occurred_at, received_at, type, player_id, coalesce((payload->>'score')::bigint, 0),
                    payload::text, from_server AND session_id IS NULL AND schema_version IS NULL
                       AND game_id = (SELECT id FROM games WHERE slug = $1)
               FROM events WHERE game_id <> (SELECT id FROM games WHERE slug = $2)",
        )
        .bind(GAME)
        .bind(NUISANCE)
        .fetch_all(&self.pool);
        let rows: Vec<(Uuid, Micros, Micros, String, String, i64, String, bool)> =
            self.answered("Postgres", ANSWER_WITHIN, rows).await?;
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
        self.report.violations.extend(differences(account, &self.deserved_dead, &self.may_lose, events));
        let stored: HashSet<Uuid> = events.iter().map(|event| event.id).collect();
        let unanswered = account.sent.difference(&account.acknowledged);
        let counts = &mut self.report.events;
        counts.sent = account.sent.len();
        counts.acknowledged = account.acknowledged.len();
        counts.unanswered = counts.sent - counts.acknowledged;
        counts.stored_unanswered = unanswered.filter(|id| stored.contains(*id)).count();
        counts.stored = events.len();
        counts.deserved_dead = self.deserved_dead.len();
        counts.may_lose = self.may_lose.len();
        counts.lost = account.acknowledged.intersection(&self.may_lose).filter(|id| !stored.contains(*id)).count();
    }

    /// Two transactions that lock the same rows in different orders are a defect, though one is tried again.
    fn look_for_deadlocks(&mut self) {
        let log = std::fs::read(self.stack.home().join("postgres.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let found: Vec<usize> = (0..lines.len()).filter(|n| lines[*n].contains("deadlock detected")).collect();
        if let Some(first) = found.first() {
            let first = lines[*first..lines.len().min(first + DEADLOCK_LINES)].join("\n  ");
            self.report.violated(format!("Postgres resolved {} deadlocks, the first:\n  {first}", found.len()));
        }
    }

    async fn compare_letters(&mut self) -> Result<(), ChaosError> {
        // What the nuisance deserves is its own affair.
        let letters = sqlx::query_as(
            "SELECT state, reason, error FROM dead_letters
              WHERE game_id IS DISTINCT FROM (SELECT id FROM games WHERE slug = $1) ORDER BY died_at",
        )
        .bind(NUISANCE)
        .fetch_all(&self.pool);
        let letters: Vec<(String, String, String)> = self.answered("Postgres", ANSWER_WITHIN, letters).await?;
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
        let periods = sqlx::query_as(
            "SELECT p.id, p.starts_at, p.ends_at
               FROM leaderboards l JOIN leaderboard_generations g ON g.leaderboard_id = l.id
               JOIN leaderboard_periods p ON p.generation_id = g.id
              WHERE l.slug = $1 AND l.deleted_at IS NULL AND l.game_id = (SELECT id FROM games WHERE slug = $2)
                AND (g.id = l.live_generation_id OR p.state = 'closed')
              ORDER BY p.starts_at",
        )
        .bind(board.slug())
        .bind(GAME)
        .fetch_all(&self.pool);
        let periods: Vec<(i64, Micros, Option<Micros>)> = self.answered("Postgres", ANSWER_WITHIN, periods).await?;
        let periods: Vec<(i64, Period)> =
            periods.into_iter().map(|(id, starts_at, ends_at)| (id, Period { starts_at, ends_at })).collect();
        let known: HashSet<Period> = periods.iter().map(|(_, period)| *period).collect();
        for (period, places) in expected {
            if !known.contains(period) {
                let (slug, from, count) = (board.slug(), period.starts_at, places.len());
                self.report.violated(format!("board {slug} lacks the period from {from} with {count} players"));
            }
        }
        for (id, period) in periods {
            let wanted = expected.get(&period).map_or(&[][..], Vec::as_slice);
            if let Err(what) = self.compare_period(board.slug(), id, wanted).await? {
                self.report.violated(format!("board {}, period from {}: {what}", board.slug(), period.starts_at));
            }
        }
        Ok(())
    }

    async fn compare_period(
        &self,
        slug: &str,
        period: i64,
        wanted: &[Place],
    ) -> Result<Result<(), String>, ChaosError> {
        let since = Instant::now();
        loop {
            let page = async { Ok::<_, ChaosError>(shown(self.rig.api, &self.key, slug, Some(period)).await) };
            let problem = match self.answered("the api", ANSWER_WITHIN, page).await? {
                Ok(shown) if shown == wanted => return Ok(Ok(())),
                Ok(shown) => difference(&shown, wanted),
                Err(problem) => problem,
            };
            if since.elapsed() > NOTICED_WITHIN {
                return Ok(Err(problem));
            }
            self.sleep(Duration::from_millis(50)).await?;
        }
    }
}

/// Places that differ.
fn difference(shown: &[Place], wanted: &[Place]) -> String {
    let length = shown.len().max(wanted.len());
    let differing: Vec<usize> = (0..length).filter(|at| shown.get(*at) != wanted.get(*at)).collect();
    let (count, some) = (differing.len(), &differing[..differing.len().min(NAMED)]);
    let described: Vec<String> =
        some.iter().map(|at| format!("shown {:?}, the events say {:?}", shown.get(*at), wanted.get(*at))).collect();
    format!("{} are shown instead of {}, {count} places differ: {}", shown.len(), wanted.len(), described.join("; "))
}
