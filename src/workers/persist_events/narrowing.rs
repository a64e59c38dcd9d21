//! What a failed attempt means for its piece: whose fault it is, and who waits for it.
//!
//! The data's fault is narrowed down to the event, which becomes a dead letter. While the server is at fault all wait.
//! What is nobody's known fault is narrowed down as well, and what fails alone is set aside: its job comes again by
//! itself, costs no attempt, and the others go on. Where one month's table is at fault, all rows of it are set aside.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::dead_event::{self, Kept};
use super::pieces::{PATIENCE, Piece};
use super::shared::Stopped;
use super::transaction::Way;
use super::writer::{Writer, Writing};
use crate::domain::month::Month;
use crate::store::StoreError;
use crate::store::failure::{Failure, classify, in_words, is_lock_timeout};
use crate::store::partitions;

impl Writer {
    /// Decides about a piece that was not stored; returns what is left to try, the next one last.
    pub(super) async fn after(
        &mut self,
        writing: &mut Writing<'_, '_>,
        mut piece: Piece,
        error: &StoreError,
    ) -> Result<Vec<Piece>, Stopped> {
        let failure = classify(error);
        match failure {
            Failure::UniqueViolation if piece.way == Way::Copy => {
                piece.way = Way::Careful;
                return Ok(vec![piece]);
            }
            Failure::Data if piece.rows.len() > 1 => return Ok(piece.split(writing.rows)),
            Failure::Data if piece.way == Way::Copy => {
                // It may be COPY's format that is refused, and not a value.
                piece.way = Way::Careful;
                return Ok(vec![piece]);
            }
            Failure::Data => return self.bury_if_the_server_is_well(writing, piece, error).await,
            Failure::NoPartition if piece.failures < PATIENCE => return self.make_partitions(writing, piece).await,
            Failure::TooMuch if piece.rows.len() > 1 => {
                // It may have waited for a month's table all the time.
                let at_fault = self.at_fault(writing, &piece, false).await;
                if let Some(refusing) = at_fault.filter(|refusing| !refusing.is_empty()) {
                    return Ok(vec![self.without(writing, piece, refusing)]);
                }
                tracing::warn!(%error, rows = piece.rows.len(), "a group took too long; trying it in parts");
                self.width.too_much(piece.rows.len());
                return Ok(piece.split(writing.rows));
            }
            _ => {}
        }
        piece.failures += 1;
        let surely_the_server = failure == Failure::Server && piece.failures < PATIENCE;
        // Who has waited for a lock in vain has waited long enough to ask whose it is.
        let asks = !surely_the_server || is_lock_timeout(error);
        let at_fault = if asks { self.at_fault(writing, &piece, piece.accused).await } else { None };
        match at_fault {
            None => {
                self.wait_out(error, &mut piece).await?;
                Ok(vec![piece])
            }
            Some(refusing) if !refusing.is_empty() => {
                piece.failures = 0;
                Ok(vec![self.without(writing, piece, refusing)])
            }
            Some(_) if surely_the_server => Ok(vec![piece]),
            Some(_) => Ok(self.narrow(writing, piece, error)),
        }
    }

    /// The server takes our own write and not this piece.
    fn narrow(&mut self, writing: &mut Writing<'_, '_>, mut piece: Piece, error: &StoreError) -> Vec<Piece> {
        if piece.way == Way::Copy {
            // It may be COPY that is refused.
            self.copy.note(true, Instant::now());
            piece.way = Way::Careful;
            return vec![piece];
        }
        // What is left of it is asked about at once.
        piece.failures = PATIENCE - 1;
        if piece.rows.len() > 1 {
            return piece.split(writing.rows);
        }
        if !std::mem::replace(&mut piece.accused, true) {
            // The server may have come back between the attempt and our own write.
            return vec![piece];
        }
        tracing::warn!(%error, "Postgres takes a probe row and refuses this write; setting its jobs aside");
        let said = in_words(error);
        writing.strikes.strike(writing.rows.rows[piece.rows[0]].game_id, &said);
        self.set_aside(writing, &piece, &said);
        Vec::new()
    }

    /// Has the jobs of a piece come again later; `error`: why, as it is shown.
    pub(super) fn set_aside(&self, writing: &mut Writing<'_, '_>, piece: &Piece, error: &str) {
        let origins = piece.rows.iter().map(|row| writing.rows.origins[*row]);
        for (game, jobs) in writing.group.set_aside(origins, error) {
            tracing::warn!(%game, jobs, error, "jobs are set aside: they fail while others succeed");
            self.shared.health.blocked(game, error, Instant::now());
        }
    }

    /// Keeps the one event of a piece as a dead letter, unless a write of our own fails as well: a trigger that divides
    /// by zero refuses everybody's events, with a code that means data. Where only the event's month refuses our write,
    /// the event is set aside: it is not its fault either, and other months need not wait.
    async fn bury_if_the_server_is_well(
        &mut self,
        writing: &mut Writing<'_, '_>,
        mut piece: Piece,
        error: &StoreError,
    ) -> Result<Vec<Piece>, Stopped> {
        match self.at_fault(writing, &piece, true).await {
            None => {
                self.wait_out(error, &mut piece).await?;
                Ok(vec![piece])
            }
            Some(refusing) if !refusing.is_empty() => Ok(vec![self.without(writing, piece, refusing)]),
            Some(_) => self.bury(writing, piece, error).await,
        }
    }

    /// Keeps the one event of a piece as a dead letter.
    async fn bury(
        &mut self,
        writing: &mut Writing<'_, '_>,
        piece: Piece,
        error: &StoreError,
    ) -> Result<Vec<Piece>, Stopped> {
        match dead_event::keep(&self.shared, writing.group, writing.rows, piece.rows[0], error).await? {
            Kept::Kept => {}
            Kept::Refused(why) => self.set_aside(writing, &piece, &format!("its dead letter is refused: {why}")),
        }
        Ok(Vec::new())
    }

    /// Makes the months that a piece falls in. Cron makes them ahead; this is for clocks and replays that outrun it.
    /// Rows of a month that cannot be had now are set aside, unless the server takes no write of our own either:
    /// then all wait.
    async fn make_partitions(
        &mut self,
        writing: &mut Writing<'_, '_>,
        mut piece: Piece,
    ) -> Result<Vec<Piece>, Stopped> {
        piece.failures += 1;
        let month = |row: usize| Month::of(writing.rows.rows[row].event.occurred_at);
        let mut missing = BTreeMap::new();
        let months: std::collections::BTreeSet<Month> = piece.rows.iter().map(|row| month(*row)).collect();
        for month in months {
            match partitions::create(&self.shared.pool, month).await {
                Ok(true) => {}
                Ok(false) => {
                    let table = month.partition_name();
                    missing.insert(month, format!("the table {table} of its month is detached or being detached"));
                }
                Err(error) => {
                    let surely_the_server = classify(&error) == Failure::Server && piece.failures < PATIENCE;
                    if surely_the_server || !self.shared.probe.server_is_well(&self.shared.pool, true).await {
                        // However long that lasts: the next attempt makes the month.
                        piece.failures = piece.failures.min(PATIENCE - 1);
                        self.wait_out(&error, &mut piece).await?;
                        return Ok(vec![piece]);
                    }
                    tracing::warn!(%error, table = month.partition_name(), "cannot make the table of a month");
                    missing.insert(month, format!("the table of its month cannot be made: {}", in_words(&error)));
                }
            }
        }
        for (away, error) in &missing {
            let (theirs, others) = piece.part(|row| month(row) == *away);
            self.set_aside(writing, &theirs, error);
            piece = others;
        }
        Ok(vec![piece])
    }
}
