//! The leaderboards of a run, and what they must show: a model that shares nothing with the fold but the calendar.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::ChaosError;
use super::shown::Place;
use crate::domain::board::{LeaderboardSpec, Operator, TiePolicy};
use crate::domain::clock::Micros;
use crate::domain::period::{Period, Schedule};

/// A stored event, as the model needs it.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Its id.
    pub id: Uuid,
    /// When it happened.
    pub occurred_at: Micros,
    /// When it was enqueued.
    pub received_at: Micros,
    /// Its type.
    pub kind: String,
    /// Whose.
    pub player: String,
    /// Its score.
    pub score: i64,
    /// Its payload, JSON.
    pub payload: String,
    /// Whether it is of the run's game, sent with a server key, and without what clients of a run do not send.
    pub bare: bool,
}

/// A leaderboard of the run.
#[derive(Debug, Clone)]
pub struct Board {
    /// As a studio writes it.
    pub json: Value,
    /// The same, read.
    pub spec: LeaderboardSpec,
    schedule: Schedule,
}

/// By period: everyone, best first.
pub type Standings = BTreeMap<Period, Vec<Place>>;

impl Board {
    fn new(json: Value) -> Result<Self, ChaosError> {
        let unusable = |error: String| ChaosError::Setup(format!("the leaderboard {json}: {error}"));
        let spec: LeaderboardSpec = serde_json::from_value(json.clone()).map_err(|e| unusable(e.to_string()))?;
        let definition = &spec.definition;
        let schedule =
            Schedule::compile(&definition.reset, &definition.time_zone).map_err(|e| unusable(e.to_string()))?;
        Ok(Self { spec, schedule, json })
    }

    /// The boards with which a run begins: an operator and a reset each.
    ///
    /// # Errors
    /// None, unless the specifications have changed.
    pub fn first_ones() -> Result<Vec<Self>, ChaosError> {
        let board = |slug: &str, operator: &str, rest: Value| {
            let mut json = json!({"slug": slug, "event_type": "game_ended", "score": "/score", "operator": operator});
            if let (Some(fields), Value::Object(rest)) = (json.as_object_mut(), rest) {
                fields.extend(rest);
            }
            Self::new(json)
        };
        Ok(vec![
            board("best", "best", json!({}))?,
            board("total", "incr", json!({"reset": "monthly"}))?,
            // Where clocks change at midnight; equals share a rank.
            board(
                "latest",
                "set",
                json!({"reset": "daily", "time_zone": "America/Havana", "tie_policy": "competition"}),
            )?,
            // Periods that end, come late and are closed during a run.
            board("rush", "incr", json!({"reset": {"cron": "* * * * *"}, "grace_seconds": 5}))?,
        ])
    }

    /// A board that is made while events come.
    ///
    /// # Errors
    /// None, unless the specifications have changed.
    pub fn later(number: usize) -> Result<Self, ChaosError> {
        let slug = format!("later-{number}");
        Self::new(json!({"slug": slug, "event_type": "game_ended", "score": "/score", "operator": "incr"}))
    }

    /// The name of the board that is edited all the time.
    pub const EDITED: &'static str = "edited";

    /// One of the definitions that it may have.
    ///
    /// # Errors
    /// None, unless the specifications have changed.
    pub fn edited(choice: u32) -> Result<Self, ChaosError> {
        let operator = ["best", "incr", "set", "decr"][choice as usize % 4];
        let tie_policy = if choice.is_multiple_of(3) { "competition" } else { "ordinal" };
        let event_type = if choice == 7 { "level_progress" } else { "game_ended" };
        Self::new(json!({"slug": Self::EDITED, "event_type": event_type, "score": "/score", "operator": operator,
                         "tie_policy": tie_policy}))
    }

    /// Its name.
    pub fn slug(&self) -> &str {
        self.spec.slug.as_str()
    }

    /// What it must show.
    pub fn standings(&self, events: &[StoredEvent]) -> Standings {
        let definition = &self.spec.definition;
        let sign = if definition.operator == Operator::Decr { -1 } else { 1 };
        let mut periods: BTreeMap<Period, BTreeMap<&str, Standing>> = BTreeMap::new();
        for event in events.iter().filter(|event| event.kind == definition.event_type.as_str()) {
            let period = self.schedule.period_at(event.occurred_at);
            if period.is_late(event.received_at, definition.grace_seconds) {
                continue;
            }
            let moved = event.score != 0 || !matches!(definition.operator, Operator::Incr | Operator::Decr);
            let own = Standing { score: sign * event.score, moment: (event.occurred_at, event.id), moved };
            let players = periods.entry(period).or_default();
            let so_far = players.entry(&event.player).or_insert(own);
            if so_far.moment != own.moment {
                so_far.add(definition.operator, own);
            }
        }
        periods.into_iter().map(|(period, players)| (period, self.ranked(players))).collect()
    }

    /// Best first: the highest score, then who reached it first, then the player's name.
    fn ranked(&self, players: BTreeMap<&str, Standing>) -> Vec<Place> {
        let mut order: Vec<(&str, Standing)> = players.into_iter().collect();
        order.sort_by_key(|(player, standing)| (std::cmp::Reverse(standing.score), standing.moment.0, *player));
        let mut places: Vec<Place> = Vec::with_capacity(order.len());
        for (before, (player, standing)) in order.into_iter().enumerate() {
            let equal = places.last().filter(|last| last.score == standing.score);
            let rank = match self.spec.tie_policy {
                TiePolicy::Competition => equal.map(|last| last.rank),
                TiePolicy::Ordinal => None,
            };
            let rank = rank.unwrap_or(before as u64 + 1);
            let (player, score) = (player.to_owned(), standing.score);
            places.push(Place { rank, player, score, reached_at: standing.moment.0 });
        }
        places
    }
}

/// A player's score, and the event that decided when it was reached.
#[derive(Debug, Clone, Copy)]
struct Standing {
    score: i64,
    moment: (Micros, Uuid),
    /// Whether anything moved it: sums of nothing but zeros were reached with the first of them.
    moved: bool,
}

impl Standing {
    fn add(&mut self, operator: Operator, other: Self) {
        match operator {
            Operator::Best if other.score > self.score => *self = other,
            Operator::Best if other.score == self.score => self.moment = self.moment.min(other.moment),
            Operator::Best => {}
            Operator::Incr | Operator::Decr => {
                self.score += other.score;
                let later = match (self.moved, other.moved) {
                    (true, true) => other.moment > self.moment,
                    (false, false) => other.moment < self.moment,
                    (_, moved) => moved,
                };
                self.moment = if later { other.moment } else { self.moment };
                self.moved |= other.moved;
            }
            Operator::Set if other.moment > self.moment => *self = other,
            Operator::Set => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(operator: &str, tie_policy: &str, events: &[(u128, i64, &str, i64)]) -> Vec<(u64, String, i64, i64)> {
        let board = Board::new(json!({"slug": "b", "event_type": "t", "score": "/score", "operator": operator,
                                      "tie_policy": tie_policy}));
        let event = |(id, second, player, score): &(u128, i64, &str, i64)| StoredEvent {
            id: Uuid::from_u128(*id),
            occurred_at: Micros::from_seconds(*second),
            received_at: Micros::from_seconds(*second),
            kind: "t".to_owned(),
            player: (*player).to_owned(),
            score: *score,
            payload: String::new(),
            bare: true,
        };
        let events: Vec<StoredEvent> = events.iter().map(event).collect();
        let places = board.unwrap().standings(&events).into_values().next().unwrap();
        places.into_iter().map(|p| (p.rank, p.player, p.score, p.reached_at.0 / 1_000_000)).collect()
    }

    #[test]
    fn the_model_orders_equals_by_when_they_got_there_and_ranks_by_tie_policy() {
        let place = |rank, player: &str, score, at| (rank, player.to_owned(), score, at);
        let events = [(1, 5, "a", 7), (2, 9, "a", 7), (3, 4, "b", 7), (4, 5, "0", 7), (5, 1, "c", 3), (6, 2, "c", 1)];
        let order = |last| vec![place(1, "b", 7, 4), place(last, "0", 7, 5), place(last + 1, "a", 7, 5)];
        let mut ordinal = order(2);
        ordinal.push(place(4, "c", 3, 1));
        assert_eq!(shown("best", "ordinal", &events), ordinal);
        let ranks: Vec<u64> = shown("best", "competition", &events).into_iter().map(|p| p.0).collect();
        assert_eq!(ranks, [1, 1, 1, 4]);
        let (sum, latest) = (shown("incr", "ordinal", &events), shown("set", "ordinal", &events));
        assert_eq!(sum[0], place(1, "a", 14, 9));
        assert_eq!(sum[3], place(4, "c", 4, 2));
        assert_eq!(latest[3], place(4, "c", 1, 2));
        assert_eq!(shown("decr", "ordinal", &events)[0], place(1, "c", -4, 2));
        let zeros = [(1, 5, "a", 7), (2, 9, "a", 0), (3, 1, "b", 0), (4, 2, "b", 0), (5, 3, "c", 0), (6, 1, "c", 2)];
        assert_eq!(shown("incr", "ordinal", &zeros), [place(1, "a", 7, 5), place(2, "c", 2, 1), place(3, "b", 0, 1)]);
    }
}
