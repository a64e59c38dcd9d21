//! A group of jobs that are written together.

use std::collections::{BTreeMap, HashSet};

use super::seen::Seen;
use crate::domain::ids::GameId;
use crate::domain::month::Month;
use crate::queue::payload::{self, PersistEvents};
use crate::queue::{Delivery, JobId, Settlement};
use crate::store::events::EventRow;

/// How one job of a group stands.
#[derive(Debug)]
enum Fate {
    /// Its rows are stored, or kept as dead letters.
    Done,
    /// It failed, alone.
    Failed(Settlement),
}

/// The jobs of one group with what becomes of each.
#[derive(Debug)]
pub struct Group<'a> {
    jobs: &'a [Delivery],
    decoded: Vec<Option<PersistEvents<'a>>>,
    fates: Vec<Fate>,
    /// Whether any of its facts were written.
    pub facts: bool,
}

/// A row and the job it came from.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// Index into the group's jobs.
    pub job: usize,
}

/// Rows in the order of their keys, each key once, with their origins beside them.
#[derive(Debug, Default)]
pub struct Rows<'a> {
    /// What is written.
    pub rows: Vec<EventRow<'a>>,
    /// `origins[i]` is where `rows[i]` came from.
    pub origins: Vec<Origin>,
    /// Rows left out because their key stood earlier in the group.
    pub repeats: usize,
}

impl<'a> Group<'a> {
    /// Decodes the jobs. One that cannot be decoded fails alone.
    pub fn decode(jobs: &'a [Delivery]) -> Self {
        let mut fates = Vec::with_capacity(jobs.len());
        let decoded = jobs
            .iter()
            .map(|job| match payload::decode_persist_events(&job.bytes) {
                Ok(events) => {
                    fates.push(Fate::Done);
                    Some(events)
                }
                Err(error) => {
                    fates.push(Fate::Failed(Settlement::fail("undecodable", error)));
                    None
                }
            })
            .collect();
        Self { jobs, decoded, fates, facts: false }
    }

    /// The jobs' rows: those expected to be new, and those that may be stored already (jobs that ran before, or that
    /// carry a key seen lately).
    pub fn rows(&self, seen: &Seen) -> (Rows<'a>, Rows<'a>) {
        let (mut fresh, mut suspect) = (Vec::new(), Vec::new());
        for (index, events) in self.decoded.iter().enumerate() {
            let (Some(events), job) = (events, &self.jobs[index]) else { continue };
            let rows = events.events.iter().map(|event| {
                let row = EventRow {
                    game_id: events.game_id,
                    event: *event,
                    received_at: job.received_at,
                    definitions_generation: 0,
                    from_server: events.from_server,
                };
                (row, Origin { job: index })
            });
            if job.ran_before() || rows.clone().any(|(row, _)| seen.contains(&row.key())) {
                suspect.extend(rows);
            } else {
                fresh.extend(rows);
            }
        }
        (Rows::sorted(fresh), Rows::sorted(suspect))
    }

    /// The job that a row came from.
    pub fn job(&self, origin: Origin) -> &'a Delivery {
        &self.jobs[origin.job]
    }

    /// The batch that a row came in.
    pub fn batch_of(&self, origin: Origin) -> uuid::Uuid {
        self.decoded[origin.job].as_ref().map_or(uuid::Uuid::nil(), |events| events.batch_id)
    }

    /// Fails the jobs of games that do not exist.
    pub fn fail_games(&mut self, games: &HashSet<GameId>) {
        for (events, fate) in self.decoded.iter().zip(&mut self.fates) {
            if let Some(events) = events.as_ref().filter(|e| games.contains(&e.game_id)) {
                let error = format!("game {} does not exist", events.game_id);
                *fate = Fate::Failed(Settlement::fail("unknown_game", error));
            }
        }
    }

    /// Sets the jobs aside that have a row in `origins`; returns how many, by game. Those that failed already stay so.
    pub fn set_aside(&mut self, origins: impl Iterator<Item = Origin>, error: &str) -> BTreeMap<GameId, usize> {
        let mut jobs = BTreeMap::new();
        for Origin { job } in origins {
            let (Some(events), fate @ Fate::Done) = (&self.decoded[job], &mut self.fates[job]) else { continue };
            *fate = Fate::Failed(Settlement::Blocked { game: events.game_id, error: error.to_owned() });
            *jobs.entry(events.game_id).or_default() += 1;
        }
        jobs
    }

    /// Games with a job that was set aside before and is done now.
    pub fn unblocked(&self) -> impl Iterator<Item = GameId> {
        let done = self.jobs.iter().zip(&self.fates).zip(&self.decoded);
        done.filter_map(|((job, fate), events)| match (fate, events) {
            (Fate::Done, Some(events)) if job.blocked > 0 => Some(events.game_id),
            _ => None,
        })
    }

    /// How each job is to be settled.
    pub fn settlements(self) -> Vec<(JobId, Settlement)> {
        let outcomes = self.fates.into_iter().map(|fate| match fate {
            Fate::Done => Settlement::Done,
            Fate::Failed(settlement) => settlement,
        });
        self.jobs.iter().map(|job| job.id.clone()).zip(outcomes).collect()
    }
}

impl<'a> Rows<'a> {
    /// Sorts by month and key and keeps the first of each: two workers that write the same keys in the same order
    /// cannot deadlock, and no statement meets itself. Months come first because COPY collects rows by partition: of
    /// rows of two months in turn it writes those of one before those of the other, wherever they stand.
    fn sorted(mut rows: Vec<(EventRow<'a>, Origin)>) -> Self {
        let before = rows.len();
        rows.sort_by_key(|(row, _)| (row.key(), row.received_at));
        rows.dedup_by(|later, first| later.0.key() == first.0.key());
        let repeats = before - rows.len();
        let moments = || rows.iter().map(|(row, _)| row.event.occurred_at);
        // Nearly always one month, which two looks at the calendar tell.
        if moments().min().map(Month::of) != moments().max().map(Month::of) {
            rows.sort_by_cached_key(|(row, _)| Month::of(row.event.occurred_at));
        }
        let (rows, origins) = rows.into_iter().unzip();
        Self { rows, origins, repeats }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Micros;
    use crate::domain::event::Event;

    /// Two workers deadlocked whose groups held the same events of two months, each sorted by key alone.
    #[test]
    fn rows_of_two_months_are_sorted_by_month_first() {
        let new_year = Micros::from_seconds(1_798_761_600);
        let row = |game, id, seconds| {
            let event = Event {
                event_id: uuid::Uuid::from_u128(id),
                event_type: "t",
                player_id: "p",
                session_id: None,
                schema_version: None,
                occurred_at: new_year.plus_seconds(seconds),
                payload: "{}",
            };
            let (game_id, received_at) = (GameId(game), new_year);
            let row = EventRow { game_id, event, received_at, definitions_generation: 0, from_server: true };
            (row, Origin { job: 0 })
        };
        let given =
            vec![row(2, 1, -1), row(1, 4, 0), row(1, 3, -2), row(1, 2, 5), row(2, 9, 1), row(1, 1, 7), row(1, 3, -2)];
        let order = |rows: Rows<'_>| -> Vec<(i32, u128)> {
            rows.rows.iter().map(|row| (row.game_id.0, row.event.event_id.as_u128())).collect()
        };
        let sorted = Rows::sorted(given);
        assert_eq!(sorted.repeats, 1);
        assert_eq!(order(sorted), [(1, 3), (2, 1), (1, 1), (1, 2), (1, 4), (2, 9)]);
        let of_one = vec![row(2, 1, 3), row(1, 2, 2), row(1, 1, 9)];
        assert_eq!(order(Rows::sorted(of_one)), [(1, 1), (1, 2), (2, 1)]);
    }
}
