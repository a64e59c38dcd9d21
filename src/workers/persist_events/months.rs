//! Months whose tables take no rows: somebody locks one, or it is broken. Their rows are set aside together, and those
//! of other months do not wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::pieces::Piece;
use super::writer::{HELD_FOR, Writer, Writing};
use crate::domain::month::Month;

/// How often a month that refused a write is asked again, while rows of it come.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Months that refused a write of our own lately: when, and why, as it is shown.
pub type Refusing = BTreeMap<Month, (Instant, String)>;

impl Writer {
    /// Asks whose fault it is that a piece was not stored: the months that take no write of our own while the server
    /// does. `None`: the server takes none either.
    pub(super) async fn at_fault(&self, writing: &Writing<'_, '_>, piece: &Piece, anew: bool) -> Option<Refusing> {
        let (probe, pool, since) = (&self.shared.probe, &self.shared.pool, anew.then(Instant::now));
        if !probe.server_is_well(pool, anew).await {
            return None;
        }
        let months: BTreeSet<Month> = piece.rows.iter().map(|row| month_of(writing, *row)).collect();
        let mut refusing = Refusing::new();
        for month in months {
            if let Some(why) = probe.refusal_of(pool, month, since).await {
                refusing.insert(month, (Instant::now(), why));
            }
        }
        // It may have been the server, just now.
        if !refusing.is_empty() && !probe.server_is_well(pool, true).await {
            return None;
        }
        self.shared.health.working();
        Some(refusing)
    }

    /// Sets the rows of months aside that refuse them, and remembers these months; returns the others.
    pub(super) fn without(&mut self, writing: &mut Writing<'_, '_>, mut piece: Piece, refusing: Refusing) -> Piece {
        for (month, (_, why)) in &refusing {
            let (theirs, others) = piece.part(|row| month_of(writing, row) == *month);
            self.set_aside(writing, &theirs, why);
            piece = others;
        }
        self.refusing.extend(refusing);
        piece
    }

    /// Likewise before an attempt, as far as they are remembered: a lock that lasts costs others one wait. A month is
    /// asked again now and then.
    pub(super) async fn without_refusing(&mut self, writing: &mut Writing<'_, '_>, piece: Piece) -> Piece {
        self.refusing.retain(|_, (asked, _)| asked.elapsed() < HELD_FOR);
        let (now, mut refusing) = (Instant::now(), Refusing::new());
        let months: BTreeSet<Month> = piece.rows.iter().map(|row| month_of(writing, *row)).collect();
        for month in months {
            let Some((asked, why)) = self.refusing.remove(&month) else { continue };
            if asked.elapsed() < ASK_AGAIN {
                refusing.insert(month, (asked, why));
            } else if let Some(why) = self.shared.probe.refusal_of(&self.shared.pool, month, Some(now)).await {
                refusing.insert(month, (Instant::now(), why));
            }
        }
        self.without(writing, piece, refusing)
    }
}

fn month_of(writing: &Writing<'_, '_>, row: usize) -> Month {
    Month::of(writing.rows.rows[row].event.occurred_at)
}
