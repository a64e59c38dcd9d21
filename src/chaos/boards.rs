//! The leaderboards of a run, and what they must show: a model that shares nothing with the fold but the calendar.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::ChaosError;
use crate::domain::board::{LeaderboardSpec, Operator};
use crate::domain::clock::Micros;
use crate::domain::period::Schedule;

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

/// By start of the period, by player: the score.
pub type Standings = BTreeMap<Micros, BTreeMap<String, i64>>;

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
            // Where clocks change at midnight.
            board("latest", "set", json!({"reset": "daily", "time_zone": "America/Havana"}))?,
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

    /// Its name.
    pub fn slug(&self) -> &str {
        self.spec.slug.as_str()
    }

    /// What it must show.
    pub fn standings(&self, events: &[StoredEvent]) -> Standings {
        let definition = &self.spec.definition;
        let mut latest: BTreeMap<(Micros, &str), (Micros, Uuid)> = BTreeMap::new();
        let mut standings = Standings::new();
        for event in events.iter().filter(|event| event.kind == definition.event_type.as_str()) {
            let period = self.schedule.period_at(event.occurred_at);
            if period.is_late(event.received_at, definition.grace_seconds) {
                continue;
            }
            let players = standings.entry(period.starts_at).or_default();
            let moment = (event.occurred_at, event.id);
            let newest = latest.entry((period.starts_at, &event.player)).or_insert(moment);
            match players.get_mut(&event.player) {
                None => {
                    players.insert(event.player.clone(), event.score);
                }
                Some(score) => match definition.operator {
                    Operator::Best => *score = event.score.max(*score),
                    Operator::Incr => *score += event.score,
                    Operator::Decr => *score -= event.score,
                    Operator::Set if moment > *newest => {
                        *newest = moment;
                        *score = event.score;
                    }
                    Operator::Set => {}
                },
            }
        }
        standings
    }
}
