//! A batch on its way: what each event is, and the jobs that carry the accepted ones.

use uuid::Uuid;

use super::validate::{Rules, Valid, validate};
use super::wire_event::WireEvent;
use crate::directory::GameEntry;
use crate::domain::clock::Micros;
use crate::domain::payload_check::PayloadChecker;
use crate::domain::score::Extraction;
use crate::domain::verdict::{Outcome, OverLimit, Warning};
use crate::queue::payload::PersistEventsEncoder;

/// What an event takes in a job beside its texts and payload.
const EVENT_OVERHEAD: usize = 16 + 8 + 4 + 3 + 4;

/// An event with its outcome so far.
#[derive(Debug)]
pub struct Judged<'a> {
    /// What the receipt will say.
    pub outcome: Outcome,
    /// The event, unless it was rejected, or judged when the batch came before.
    valid: Option<Valid<'a>>,
    /// Whether its type feeds a leaderboard.
    high: bool,
}

/// A judged batch.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Its id.
    pub id: Uuid,
    /// When it came, by the clock that judged it.
    pub now: Micros,
    /// Its events, in order.
    pub events: Vec<Judged<'a>>,
    /// When what is over a limit fits again, in seconds.
    pub retry_after: u32,
    /// How many of its events were queued when it came before.
    pub queued_before: usize,
}

/// How many events have each verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Queued.
    pub accepted: usize,
    /// Repeats within the batch.
    pub duplicate: usize,
    /// Refused for good.
    pub rejected: usize,
    /// Over a limit.
    pub retry: usize,
}

/// Judges every event of a batch.
pub fn judge<'a>(wires: &'a [WireEvent<'_>], rules: &Rules, game: &GameEntry, from_server: bool) -> Batch<'a> {
    let mut checker = PayloadChecker::default();
    let events = wires.iter().enumerate();
    let mut events: Vec<Judged<'a>> =
        events.map(|(index, wire)| judge_event(wire, index, rules, game, from_server, &mut checker)).collect();
    mark_duplicates(&mut events);
    Batch { id: rules.batch_id, now: rules.now, events, retry_after: 0, queued_before: 0 }
}

/// Judges a batch that came before, under the id that it got then (`rules` has it): what was over a limit, or too far
/// ahead, is judged anew, and the rest is as `before` says.
pub fn judge_again<'a>(
    wires: &'a [WireEvent<'_>],
    before: &[Outcome],
    rules: &Rules,
    game: &GameEntry,
    from_server: bool,
) -> Batch<'a> {
    let mut checker = PayloadChecker::default();
    let mut events: Vec<Judged<'a>> = wires
        .iter()
        .zip(before)
        .enumerate()
        .map(|(index, (wire, outcome))| {
            if outcome.may_change() {
                judge_event(wire, index, rules, game, from_server, &mut checker)
            } else {
                Judged { outcome: *outcome, valid: None, high: false }
            }
        })
        .collect();
    mark_duplicates(&mut events);
    let queued_before = count(before.iter().copied()).accepted;
    Batch { id: rules.batch_id, now: rules.now, events, retry_after: 0, queued_before }
}

fn judge_event<'a>(
    wire: &'a WireEvent<'_>,
    index: usize,
    rules: &Rules,
    game: &GameEntry,
    from_server: bool,
    checker: &mut PayloadChecker,
) -> Judged<'a> {
    match validate(wire, index, rules, checker) {
        Ok(valid) => {
            let (high, warning) = feeds(&valid, game, from_server);
            Judged { outcome: Outcome::Accepted(warning), valid: Some(valid), high }
        }
        Err(refusal) => Judged { outcome: Outcome::Rejected(refusal), valid: None, high: false },
    }
}

/// Whether the event's type feeds a leaderboard, and what its boards have to say of its score.
fn feeds(valid: &Valid<'_>, game: &GameEntry, from_server: bool) -> (bool, Option<Warning>) {
    let Some(boards) = game.feeds.get(valid.event.event_type) else { return (false, None) };
    let mut warning = None;
    for board in boards {
        match board.extractor.extract(valid.event.payload, from_server) {
            Extraction::Unusable => return (true, Some(Warning::ScoreUnusable)),
            Extraction::OutOfBounds => warning = Some(Warning::ScoreOutOfBounds),
            Extraction::Score { .. } | Extraction::NoMatch => {}
        }
    }
    (true, warning)
}

/// A repeat of an event's identity (`event_id`, `occurred_at`) within the batch is a duplicate; the first one counts.
fn mark_duplicates(events: &mut [Judged<'_>]) {
    let mut identities: Vec<(Uuid, Micros, usize)> = events
        .iter()
        .enumerate()
        .filter_map(|(index, judged)| judged.valid.map(|v| (v.event.event_id, v.event.occurred_at, index)))
        .collect();
    identities.sort_unstable();
    for pair in identities.windows(2) {
        if pair[0].0 == pair[1].0 && pair[0].1 == pair[1].1 {
            events[pair[1].2].outcome = Outcome::Duplicate;
        }
    }
}

impl Batch<'_> {
    /// The players of the accepted events, in order.
    pub fn players(&self) -> impl Iterator<Item = &str> {
        self.accepted().map(|valid| valid.event.player_id)
    }

    /// The jobs of the lanes `high` and `low`; empty when the lane has none.
    pub fn jobs(&self, game: &GameEntry, from_server: bool) -> [Vec<u8>; 2] {
        [true, false].map(|high| {
            let share = || self.events.iter().filter(|j| j.high == high && matches!(j.outcome, Outcome::Accepted(_)));
            let events = || share().filter_map(|judged| judged.valid.as_ref()).map(|valid| &valid.event);
            let size: usize = events()
                .map(|e| {
                    let texts = e.event_type.len() + e.player_id.len() + e.session_id.map_or(0, str::len);
                    EVENT_OVERHEAD + texts + e.payload.len()
                })
                .sum();
            if size == 0 {
                return Vec::new();
            }
            let mut encoder = PersistEventsEncoder::new(game.id, self.id, from_server, size + 32);
            events().for_each(|event| encoder.push(event));
            encoder.finish()
        })
    }

    /// Takes out what is over a limit: of the accepted events of `player` (of all: the game) the first `left` stay.
    pub fn limit(&mut self, player: Option<&str>, mut left: u32, retry_after_ms: u64) {
        let over = if player.is_some() { OverLimit::Player } else { OverLimit::Game };
        for judged in &mut self.events {
            let Outcome::Accepted(_) = judged.outcome else { continue };
            let Some(valid) = judged.valid else { continue };
            if player.is_some_and(|player| player != valid.event.player_id) {
                continue;
            }
            if left > 0 {
                left -= 1;
            } else {
                judged.outcome = Outcome::Retry(over);
            }
        }
        let seconds = u32::try_from(retry_after_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
        self.retry_after = self.retry_after.max(seconds).max(1);
    }

    /// Whether any event is to be queued now.
    pub fn queues_any(&self) -> bool {
        self.accepted().next().is_some()
    }

    fn accepted(&self) -> impl Iterator<Item = &Valid<'_>> {
        self.events
            .iter()
            .filter(|judged| matches!(judged.outcome, Outcome::Accepted(_)))
            .filter_map(|judged| judged.valid.as_ref())
    }
}

/// How many outcomes have each verdict.
pub fn count(outcomes: impl Iterator<Item = Outcome>) -> Counts {
    let mut counts = Counts::default();
    for outcome in outcomes {
        match outcome {
            Outcome::Accepted(_) => counts.accepted += 1,
            Outcome::Duplicate => counts.duplicate += 1,
            Outcome::Rejected(_) => counts.rejected += 1,
            Outcome::Retry(_) => counts.retry += 1,
        }
    }
    counts
}
