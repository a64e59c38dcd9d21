//! Writes groups, piece by piece: each attempt is one transaction, and `narrowing.rs` says what a failed one means.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::copy_rest::CopyRest;
use super::group::{Group, Rows};
use super::months::Refusing;
use super::pieces::{Piece, Strikes, pieces};
use super::shared::{Shared, Stopped};
use super::transaction::{self, Attempt, Way};
use crate::domain::ids::GameId;
use crate::domain::width::Width;
use crate::queue::{Delivery, JobId, Settlement};
use crate::store::StoreError;
use crate::store::definitions::{self, Definitions};
use crate::store::events::EventRow;
use crate::store::failure::{Failure, classify, is_read_only};

/// So many times in a row the definitions of a game may change under an attempt before its rows are set aside.
const MOST_STALE: u32 = 5;

/// How often definitions that cannot be read are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// So long a group waits for the locks of games that others hold, all of them together, once all else is written.
const WAIT_FOR_HELD: Duration = Duration::from_secs(2);
/// A game, or a month, that was waited for in vain is not waited for again within this time: its jobs are set aside at
/// once. A job that is set aside comes again within it, so a lock that lasts costs others one wait.
pub(super) const HELD_FOR: Duration = Duration::from_secs(90);

/// One writer: one transaction at a time.
#[derive(Debug)]
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) copy: CopyRest,
    pub(super) width: Width,
    /// Games whose rows are locked by others, and when that was seen last.
    held: HashMap<GameId, Instant>,
    pub(super) refusing: Refusing,
    /// When definitions that could not be read were last looked at again.
    looked_again: Option<Instant>,
}

/// A group's rows while they are written.
pub struct Writing<'w, 'a> {
    /// What becomes of the jobs.
    pub group: &'w mut Group<'a>,
    /// The rows.
    pub rows: &'w Rows<'a>,
    /// Games whose events fail one by one.
    pub strikes: Strikes,
    /// Pieces whose games are locked by others: they come last, each with one game.
    held: Vec<Piece>,
    /// Since when the group waits for these.
    held_since: Option<Instant>,
}

impl Writer {
    /// A writer on what the process shares.
    pub fn new(shared: Arc<Shared>) -> Self {
        let (copy, width) = (CopyRest::default(), Width::new(usize::MAX));
        Self { shared, copy, width, held: HashMap::new(), refusing: Refusing::new(), looked_again: None }
    }

    /// Stores what the jobs carry and says how each is to be settled, and whether score facts were written.
    pub async fn write(&mut self, jobs: &[Delivery]) -> (Vec<(JobId, Settlement)>, bool) {
        let mut group = Group::decode(jobs);
        let (fresh, suspect) = group.rows(&self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner));
        for (rows, way) in [(fresh, self.copy.way(Instant::now())), (suspect, Way::Careful)] {
            self.shared.metrics.duplicate.increment(rows.repeats as u64);
            if self.write_rows(&mut group, &rows, way).await.is_err() {
                let back = || Settlement::Transient { error: "the worker is stopping".to_owned() };
                return (jobs.iter().map(|job| (job.id.clone(), back())).collect(), group.facts);
            }
        }
        // What waited for the server may have ended without a write: set aside, or failed. No later one may come.
        if self.shared.health.is_failing() && self.shared.probe.server_is_well(&self.shared.pool, false).await {
            self.shared.health.working();
        }
        for game in group.unblocked() {
            self.shared.health.unblocked(game);
        }
        let facts = group.facts;
        (group.settlements(), facts)
    }

    /// Stores rows. A piece that fails is repeated, narrowed down or set aside; the others do not wait for it.
    async fn write_rows<'a>(&mut self, group: &mut Group<'a>, rows: &Rows<'a>, way: Way) -> Result<(), Stopped> {
        let mut open = pieces(rows.rows.len(), self.width.most(), way);
        let mut writing = Writing { group, rows, strikes: Strikes::default(), held: Vec::new(), held_since: None };
        while let Some(piece) = open.pop().or_else(|| writing.held.pop()) {
            if self.shared.hard.is_cancelled() {
                return Err(Stopped);
            }
            if let Some(error) = writing.strikes.out(&piece, rows).map(str::to_owned) {
                self.set_aside(&mut writing, &piece, &error);
            } else if !piece.rows.is_empty() {
                open.extend(self.attempt(&mut writing, piece).await?);
            }
        }
        Ok(())
    }

    /// Tries to store one piece; returns what is left to try, the next one last.
    async fn attempt(&mut self, writing: &mut Writing<'_, '_>, mut piece: Piece) -> Result<Vec<Piece>, Stopped> {
        if !self.refusing.is_empty() {
            piece = self.without_refusing(writing, piece).await;
            if piece.rows.is_empty() {
                return Ok(Vec::new());
            }
        }
        let definitions = self.shared.definitions.load_full();
        if !definitions.unreadable.is_empty() {
            let is_unreadable = |row: usize| {
                let EventRow { game_id, event, .. } = &writing.rows.rows[row];
                definitions.unreadable_for(*game_id, event.event_type).is_some()
            };
            let (unreadable, readable) = piece.part(is_unreadable);
            if !unreadable.rows.is_empty() {
                return Ok([vec![readable], self.keep_for_newer(writing, unreadable).await?].concat());
            }
            return self.attempt_readable(writing, readable, &definitions).await;
        }
        self.attempt_readable(writing, piece, &definitions).await
    }

    /// Sets rows aside that may count for a leaderboard which only a newer program can read: stored here they
    /// would never count for it. First the definitions are looked at again, at most once a second: nobody says
    /// when they can be read.
    async fn keep_for_newer(&mut self, writing: &mut Writing<'_, '_>, piece: Piece) -> Result<Vec<Piece>, Stopped> {
        let now = Instant::now();
        if self.looked_again.is_none_or(|at| now - at > LOOK_AGAIN) {
            self.looked_again = Some(now);
            return self.reload_for(writing, piece).await;
        }
        self.set_aside(writing, &piece, "a leaderboard that it may count for is defined by a newer version");
        Ok(Vec::new())
    }

    async fn attempt_readable(
        &mut self,
        writing: &mut Writing<'_, '_>,
        piece: Piece,
        definitions: &Definitions,
    ) -> Result<Vec<Piece>, Stopped> {
        let mut kept: Vec<EventRow<'_>> = piece.rows.iter().map(|row| writing.rows.rows[*row]).collect();
        let patience = piece.held.then(|| {
            let since = *writing.held_since.get_or_insert_with(Instant::now);
            WAIT_FOR_HELD.saturating_sub(since.elapsed())
        });
        let attempt = transaction::store(&self.shared.pool, &mut kept, piece.way, definitions, patience).await;
        if piece.way == Way::Copy {
            let met_stored = attempt.as_ref().is_err_and(|e| classify(e) == Failure::UniqueViolation);
            self.copy.note(met_stored, Instant::now());
        }
        match attempt {
            Ok(Attempt::Stored { new, facts }) => {
                self.note_stored(&kept, new);
                self.width.passed(kept.len());
                writing.strikes.clear(kept.iter().map(|row| row.game_id));
                if !self.held.is_empty() {
                    for row in &kept {
                        self.held.remove(&row.game_id);
                    }
                }
                writing.group.facts |= facts;
                Ok(Vec::new())
            }
            Ok(Attempt::UnknownGames(games)) => {
                // Their jobs have failed, the others go on.
                writing.group.fail_games(&games);
                let (_, others) = piece.part(|row| games.contains(&writing.rows.rows[row].game_id));
                Ok(vec![others])
            }
            Ok(Attempt::StaleDefinitions(games)) => {
                // Whose definitions stand is written first: one game that changes its own holds nobody up.
                let (stale, others) = piece.part(|row| games.contains(&writing.rows.rows[row].game_id));
                Ok([self.reload_for(writing, stale).await?, vec![others]].concat())
            }
            Ok(Attempt::HeldGames(games)) => {
                let mut others = piece;
                for game in games {
                    let (theirs, rest) = others.part(|row| writing.rows.rows[row].game_id == game);
                    others = rest;
                    self.hold(writing, theirs, game);
                }
                Ok(vec![others])
            }
            Err(error) => self.after(writing, piece, &error).await,
        }
    }

    /// Keeps rows of a game that another transaction locks for the end of the group, when they wait for the lock. Those
    /// that waited in vain are set aside, and so are those of a game that was waited for lately.
    fn hold(&mut self, writing: &mut Writing<'_, '_>, mut piece: Piece, game: GameId) {
        let now = Instant::now();
        self.held.retain(|_, seen| now.saturating_duration_since(*seen) < HELD_FOR);
        if !piece.held && !self.held.contains_key(&game) {
            piece.held = true;
            writing.held.push(piece);
            return;
        }
        self.held.insert(game, now);
        self.set_aside(writing, &piece, "another transaction locks its game and does not end");
    }

    fn note_stored(&self, rows: &[EventRow<'_>], new: usize) {
        let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            seen.note(&row.key());
        }
        drop(seen);
        self.shared.health.working();
        self.shared.metrics.inserted.increment(new as u64);
        self.shared.metrics.duplicate.increment((rows.len() - new) as u64);
    }

    /// Loads the definitions anew for a piece that was made with old ones; returns it, unless they change all the time.
    async fn reload_for(&mut self, writing: &mut Writing<'_, '_>, mut piece: Piece) -> Result<Vec<Piece>, Stopped> {
        let loaded = match self.shared.pool.acquire().await {
            Ok(mut connection) => definitions::load(&mut connection).await,
            Err(error) => Err(error),
        };
        match loaded {
            Ok(definitions) => {
                let definitions = Arc::new(definitions);
                definitions.tell_unreadable(&self.shared.definitions.swap(Arc::clone(&definitions)));
                piece.stale += 1;
                if piece.stale > MOST_STALE {
                    self.set_aside(writing, &piece, "the definitions change faster than its events can be written");
                    return Ok(Vec::new());
                }
            }
            Err(error) => self.wait_out(&error, &mut piece).await?,
        }
        Ok(vec![piece])
    }

    /// Waits before a piece is tried again, longer each time.
    pub(super) async fn wait_out(&self, error: &StoreError, piece: &mut Piece) -> Result<(), Stopped> {
        tracing::warn!(%error, attempt = piece.pause.repeats(), "Postgres refused a write; repeating");
        if is_read_only(error) {
            // After a fail-over old connections still lead to the server that was demoted.
            self.shared.pool.renew_connections();
        }
        self.shared.health.failing(&error.to_string(), Instant::now());
        tokio::select! {
            () = self.shared.hard.cancelled() => Err(Stopped),
            () = tokio::time::sleep(piece.pause.pause()) => Ok(()),
        }
    }
}
