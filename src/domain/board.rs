//! Leaderboard definitions: what a studio writes to say which events count, how, and for how long.

use serde::{Deserialize, Serialize};

use super::ids::{BoardGenerationId, EventType, GameId, Slug};
use super::period::Reset;

/// How facts combine into an entry (`fact.rs`, `entry.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Operator {
    /// The best (score, subscore) in the leaderboard's order; of equals the earliest.
    #[default]
    Best,
    /// The latest by (`occurred_at`, `event_id`), also when it says the same as before (ADR 0008).
    Set,
    /// The sum.
    Incr,
    /// Zero minus the sum.
    Decr,
}

/// Which end of the scale ranks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The highest score ranks first.
    #[default]
    #[serde(alias = "desc")]
    Descending,
    /// The lowest score ranks first.
    #[serde(alias = "asc")]
    Ascending,
}

/// How equal scores rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum TiePolicy {
    /// 1, 2, 3, 4: score, subscore, then who reached it first, then the player id.
    #[default]
    Ordinal,
    /// 1, 2, 2, 4: equal (score, subscore) share a rank.
    Competition,
}

/// Where a score comes from: a JSON pointer (RFC 6901) into the payload, or a constant per event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ScoreSource {
    /// The same for each event, for example 1 to count wins.
    Constant(i64),
    /// A JSON pointer into the payload, for example `/score`.
    Pointer(String),
}

/// A condition on the payload: the value at `pointer` equals `equals`, or is one of `any_of`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// A JSON pointer into the payload.
    pub pointer: String,
    /// The value (text, number, boolean or null) that must stand there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub equals: Option<serde_json::Value>,
    /// Or: the values of which one must stand there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub any_of: Vec<serde_json::Value>,
}

/// `"equals": null` is a condition, an absent `equals` is none.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(d).map(Some)
}

fn default_time_zone() -> String {
    "UTC".to_owned()
}

/// Ten minutes: late scores of a period count until this long after its end.
pub const DEFAULT_GRACE_SECONDS: u32 = 600;

fn default_grace() -> u32 {
    DEFAULT_GRACE_SECONDS
}

/// What decides which entries a leaderboard has. A change here makes a new generation and a recompute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The event type that feeds the leaderboard.
    pub event_type: EventType,
    /// Where the score comes from.
    #[serde(alias = "score_pointer")]
    pub score: ScoreSource,
    /// Where the subscore (first tie-break) comes from, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "subscore_pointer")]
    pub subscore: Option<ScoreSource>,
    /// A JSON pointer to a part of the payload (at most 1 KiB) that is kept with the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// Conditions on the payload, all of which must hold.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Match>,
    /// How facts combine.
    #[serde(default)]
    pub operator: Operator,
    /// Which end ranks first.
    #[serde(default)]
    pub order: Order,
    /// Facts with a lower score are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<i64>,
    /// Facts with a higher score are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_score: Option<i64>,
    /// When a new period begins.
    #[serde(default)]
    pub reset: Reset,
    /// IANA name of the time zone in which `reset` is meant.
    #[serde(default = "default_time_zone")]
    pub time_zone: String,
    /// How long after a period's end its late scores count, in seconds.
    #[serde(default = "default_grace")]
    pub grace_seconds: u32,
}

/// A leaderboard as a studio writes it: the body of the admin route and the file of `scoreline leaderboard apply`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaderboardSpec {
    /// Its name in URLs, unique in its game.
    pub slug: Slug,
    /// Its name for people; the slug when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Readable without a key under `/v1/public/{game}/…`.
    #[serde(default)]
    pub public: bool,
    /// How equal scores rank. Affects reading only, so a change needs no recompute.
    #[serde(default)]
    pub tie_policy: TiePolicy,
    /// Count only events that were sent with a server key.
    #[serde(default)]
    pub server_only: bool,
    /// What counts.
    #[serde(flatten)]
    pub definition: Definition,
}

/// Whether a generation of a leaderboard is being computed, is what players see, or was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationState {
    /// A recompute fills it; workers already make facts for it.
    Building,
    /// What players see.
    Live,
    /// Replaced; its rows are being removed.
    Retired,
}

/// One generation of a leaderboard, as workers, the aggregator and the api use it.
#[derive(Debug, Clone, PartialEq)]
pub struct BoardGeneration {
    /// `leaderboard_generations.id`.
    pub id: BoardGenerationId,
    /// `leaderboards.id`.
    pub leaderboard_id: i32,
    /// Whose it is.
    pub game_id: GameId,
    /// The game's definitions generation that created it. Events stamped with this or a later one reach it as
    /// facts from the worker; earlier ones through the recompute (docs/rules.md#definitions-change-while-workers-run).
    pub since_generation: i32,
    /// Building, live or retired.
    pub state: GenerationState,
    /// The leaderboard as written.
    pub spec: LeaderboardSpec,
}

/// A generation with its rules compiled: what a process keeps in memory.
#[derive(Debug, Clone)]
pub struct CompiledBoard {
    /// The generation as stored.
    pub generation: BoardGeneration,
    /// Payload rules.
    pub extractor: super::score::Extractor,
    /// Reset schedule.
    pub schedule: super::period::Schedule,
}

/// Why a leaderboard's specification is unusable. Each has a stable code in the api.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// `score`, `subscore`, `metadata` or a `match` pointer does not parse.
    #[error("{0}")]
    BadPointer(#[from] super::json::BadPointer),
    /// `reset` or `time_zone` is unusable.
    #[error("{0}")]
    Schedule(#[from] super::period::ScheduleError),
    /// `min_score` is above `max_score`.
    #[error("min_score must not be above max_score")]
    EmptyBounds,
    /// A `match` has neither `equals` nor `any_of`, or a value that is no text, number, boolean or null.
    #[error("each match needs 'equals' or 'any_of' with text, numbers, booleans or null")]
    BadMatch,
    /// More conditions than a definition may have.
    #[error("at most 16 match conditions of at most 64 values each")]
    TooManyMatches,
}

impl CompiledBoard {
    /// Compiles a stored generation.
    ///
    /// # Errors
    /// [`SpecError`]: the specification is unusable. What the api accepted never is.
    pub fn compile(generation: BoardGeneration) -> Result<Self, SpecError> {
        let definition = &generation.spec.definition;
        if definition.min_score.zip(definition.max_score).is_some_and(|(min, max)| min > max) {
            return Err(SpecError::EmptyBounds);
        }
        if definition.matches.len() > 16 || definition.matches.iter().any(|m| m.any_of.len() > 64) {
            return Err(SpecError::TooManyMatches);
        }
        for condition in &definition.matches {
            let mut values = condition.equals.iter().chain(&condition.any_of).peekable();
            if values.peek().is_none() || values.any(|v| v.is_object() || v.is_array()) {
                return Err(SpecError::BadMatch);
            }
        }
        Ok(Self {
            extractor: super::score::Extractor::compile(&generation.spec)?,
            schedule: super::period::Schedule::compile(&definition.reset, &definition.time_zone)?,
            generation,
        })
    }
}
