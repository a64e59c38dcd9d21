//! What ingest says of one event, and the stable codes it says it with.

use super::ids::IdProblem;
use super::payload_check::PayloadProblem;

/// The verdict on one event of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Queued. It will be stored exactly once.
    Accepted,
    /// A repeat of an earlier event of the same batch.
    Duplicate,
    /// Refused for good; sending it again unchanged is pointless.
    Rejected,
    /// Over a limit; send it again after `retry_after`.
    Retry,
}

impl Verdict {
    /// Its name in receipts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Retry => "retry",
        }
    }
}

/// Why a text field is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextProblem {
    /// Required, and absent or JSON `null`.
    Missing,
    /// Not a JSON string.
    NotText,
    /// No identifier.
    Id(IdProblem),
}

/// Why an event is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The element of the batch is no JSON object.
    NotAnObject,
    /// The element is no JSON (a line of NDJSON), or has a text that is no Unicode.
    Malformed,
    /// It names one of an event's fields twice.
    RepeatedField,
    /// It is larger than an event may be.
    TooLarge,
    /// `event_id` is no identifier.
    EventId(TextProblem),
    /// `type` is missing or no identifier.
    Type(TextProblem),
    /// `player_id` is missing or no identifier.
    PlayerId(TextProblem),
    /// `session_id` is no identifier.
    SessionId(TextProblem),
    /// `schema_version` is no integer from 0 to 2^31 - 1.
    SchemaVersion,
    /// `occurred_at` is absent, and `event_id` is given but is no UUIDv7 that tells it.
    OccurredAtRequired,
    /// `occurred_at` is neither RFC 3339 nor integral milliseconds since the Unix epoch.
    OccurredAtInvalid,
    /// It happened longer ago than an event may have.
    OccurredAtTooOld,
    /// It is further ahead of the server's clock than an event may be.
    OccurredAtInFuture,
    /// Its payload cannot be stored.
    Payload(PayloadProblem),
}

/// What is worth telling about an accepted event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// A leaderboard that its type feeds found no usable score in it.
    ScoreUnusable,
    /// Its score is outside a leaderboard's bounds and does not count there.
    ScoreOutOfBounds,
}

impl Warning {
    /// Stable.
    pub const fn code(self) -> &'static str {
        match self {
            Self::ScoreUnusable => "score_unusable",
            Self::ScoreOutOfBounds => "score_out_of_bounds",
        }
    }

    /// For people.
    pub const fn message(self) -> &'static str {
        match self {
            Self::ScoreUnusable => {
                "stored, but it does not score: a leaderboard found no integral score in its payload"
            }
            Self::ScoreOutOfBounds => "stored, but its score is outside the bounds of a leaderboard",
        }
    }
}

/// Which limit an event ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverLimit {
    /// Its player's events a minute.
    Player,
    /// Its game's events a minute.
    Game,
}

impl OverLimit {
    /// Stable.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Player => "player_limit",
            Self::Game => "game_limit",
        }
    }

    /// For people.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Player => "this player has sent as many events as a minute allows",
            Self::Game => "this game has sent as many events as a minute allows",
        }
    }
}

/// The verdict on one event with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Queued.
    Accepted(Option<Warning>),
    /// A repeat within the batch.
    Duplicate,
    /// Refused for good.
    Rejected(Refusal),
    /// Over a limit.
    Retry(OverLimit),
}

impl Outcome {
    /// The verdict without its reason.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Accepted(_) => Verdict::Accepted,
            Self::Duplicate => Verdict::Duplicate,
            Self::Rejected(_) => Verdict::Rejected,
            Self::Retry(_) => Verdict::Retry,
        }
    }

    /// The stable code; `None` for an event accepted without a warning.
    pub const fn code(self) -> Option<&'static str> {
        match self {
            Self::Accepted(None) => None,
            Self::Accepted(Some(warning)) => Some(warning.code()),
            Self::Duplicate => Some("duplicate_in_batch"),
            Self::Rejected(refusal) => Some(refusal.code()),
            Self::Retry(over) => Some(over.code()),
        }
    }

    /// Every outcome there is.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.iter().copied()
    }

    /// Whether the same event may get another verdict later: it was over a limit, or ahead of the clock.
    pub const fn may_change(self) -> bool {
        matches!(self, Self::Retry(_) | Self::Rejected(Refusal::OccurredAtInFuture))
    }

    /// One byte, as remembered with an `Idempotency-Key`.
    pub fn to_byte(self) -> u8 {
        ALL.iter().position(|o| *o == self).map_or(u8::MAX, |at| at as u8)
    }

    /// The inverse of [`Outcome::to_byte`]; `None` for a byte that a newer program wrote.
    pub fn from_byte(byte: u8) -> Option<Self> {
        ALL.get(usize::from(byte)).copied()
    }
}

impl Refusal {
    /// Stable.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotAnObject => "event_not_an_object",
            Self::Malformed => "event_malformed",
            Self::RepeatedField => "event_field_repeated",
            Self::TooLarge => "event_too_large",
            Self::EventId(_) => "event_id_invalid",
            Self::Type(TextProblem::Missing) => "type_required",
            Self::Type(_) => "type_invalid",
            Self::PlayerId(TextProblem::Missing) => "player_id_required",
            Self::PlayerId(_) => "player_id_invalid",
            Self::SessionId(_) => "session_id_invalid",
            Self::SchemaVersion => "schema_version_invalid",
            Self::OccurredAtRequired => "occurred_at_required",
            Self::OccurredAtInvalid => "occurred_at_invalid",
            Self::OccurredAtTooOld => "occurred_at_too_old",
            Self::OccurredAtInFuture => "occurred_at_in_future",
            Self::Payload(problem) => match problem {
                PayloadProblem::NotAnObject => "payload_not_an_object",
                PayloadProblem::NullCharacter => "payload_null_character",
                PayloadProblem::LoneSurrogate => "payload_lone_surrogate",
                PayloadProblem::DuplicateKey => "payload_duplicate_key",
                PayloadProblem::TooDeep => "payload_too_deep",
                PayloadProblem::NumberOutOfRange => "payload_number_out_of_range",
                PayloadProblem::Damaged => "payload_invalid",
            },
        }
    }

    /// The field it is about, as a JSON pointer into the event; empty for the event as a whole.
    pub const fn field(self) -> &'static str {
        match self {
            Self::NotAnObject | Self::Malformed | Self::RepeatedField | Self::TooLarge => "",
            Self::EventId(_) => "/event_id",
            Self::Type(_) => "/type",
            Self::PlayerId(_) => "/player_id",
            Self::SessionId(_) => "/session_id",
            Self::SchemaVersion => "/schema_version",
            Self::OccurredAtRequired | Self::OccurredAtInvalid | Self::OccurredAtTooOld | Self::OccurredAtInFuture => {
                "/occurred_at"
            }
            Self::Payload(_) => "/payload",
        }
    }
}

/// For people. What depends on limits or the clock (`TooLarge`, `OccurredAtTooOld`, `OccurredAtInFuture`) is completed
/// by the receipt, which knows them.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |f: &mut std::fmt::Formatter<'_>, name: &str, problem: &TextProblem| match problem {
            TextProblem::Missing => write!(f, "{name} is required"),
            TextProblem::NotText => write!(f, "{name} must be a string"),
            TextProblem::Id(problem) => write!(f, "{name} {problem}"),
        };
        match self {
            Self::NotAnObject => f.write_str("an event is a JSON object"),
            Self::Malformed => f.write_str("the event is not valid JSON, or has a text that is not valid Unicode"),
            Self::RepeatedField => f.write_str("the event names one of its fields twice"),
            Self::TooLarge => f.write_str("the event is too large"),
            Self::EventId(problem) => text(f, "event_id", problem),
            Self::Type(problem) => text(f, "type", problem),
            Self::PlayerId(problem) => text(f, "player_id", problem),
            Self::SessionId(problem) => text(f, "session_id", problem),
            Self::SchemaVersion => f.write_str("schema_version must be an integer from 0 to 2147483647"),
            Self::OccurredAtRequired => f.write_str("occurred_at is required unless event_id is a UUIDv7"),
            Self::OccurredAtInvalid => f.write_str(
                "occurred_at must be an RFC 3339 date-time with an offset, or milliseconds since the Unix epoch",
            ),
            Self::OccurredAtTooOld => f.write_str("occurred_at is too long ago"),
            Self::OccurredAtInFuture => f.write_str("occurred_at is too far ahead of the server's clock"),
            Self::Payload(problem) => write!(f, "payload {problem}"),
        }
    }
}

const NO_ID: [TextProblem; 5] = [
    TextProblem::NotText,
    TextProblem::Id(IdProblem::Empty),
    TextProblem::Id(IdProblem::TooLong),
    TextProblem::Id(IdProblem::BadCharacter),
    TextProblem::Id(IdProblem::Placeholder),
];

/// Every outcome; its place is its byte. Bytes are remembered for a day, across versions: append only.
static ALL: [Outcome; 46] = [
    Outcome::Accepted(None),
    Outcome::Accepted(Some(Warning::ScoreUnusable)),
    Outcome::Accepted(Some(Warning::ScoreOutOfBounds)),
    Outcome::Duplicate,
    Outcome::Retry(OverLimit::Player),
    Outcome::Retry(OverLimit::Game),
    Outcome::Rejected(Refusal::NotAnObject),
    Outcome::Rejected(Refusal::Malformed),
    Outcome::Rejected(Refusal::RepeatedField),
    Outcome::Rejected(Refusal::TooLarge),
    Outcome::Rejected(Refusal::SchemaVersion),
    Outcome::Rejected(Refusal::OccurredAtRequired),
    Outcome::Rejected(Refusal::OccurredAtInvalid),
    Outcome::Rejected(Refusal::OccurredAtTooOld),
    Outcome::Rejected(Refusal::OccurredAtInFuture),
    Outcome::Rejected(Refusal::Type(TextProblem::Missing)),
    Outcome::Rejected(Refusal::PlayerId(TextProblem::Missing)),
    Outcome::Rejected(Refusal::EventId(NO_ID[0])),
    Outcome::Rejected(Refusal::EventId(NO_ID[1])),
    Outcome::Rejected(Refusal::EventId(NO_ID[2])),
    Outcome::Rejected(Refusal::EventId(NO_ID[3])),
    Outcome::Rejected(Refusal::EventId(NO_ID[4])),
    Outcome::Rejected(Refusal::Type(NO_ID[0])),
    Outcome::Rejected(Refusal::Type(NO_ID[1])),
    Outcome::Rejected(Refusal::Type(NO_ID[2])),
    Outcome::Rejected(Refusal::Type(NO_ID[3])),
    Outcome::Rejected(Refusal::Type(NO_ID[4])),
    Outcome::Rejected(Refusal::PlayerId(NO_ID[0])),
    Outcome::Rejected(Refusal::PlayerId(NO_ID[1])),
    Outcome::Rejected(Refusal::PlayerId(NO_ID[2])),
    Outcome::Rejected(Refusal::PlayerId(NO_ID[3])),
    Outcome::Rejected(Refusal::PlayerId(NO_ID[4])),
    Outcome::Rejected(Refusal::SessionId(NO_ID[0])),
    Outcome::Rejected(Refusal::SessionId(NO_ID[1])),
    Outcome::Rejected(Refusal::SessionId(NO_ID[2])),
    Outcome::Rejected(Refusal::SessionId(NO_ID[3])),
    Outcome::Rejected(Refusal::SessionId(NO_ID[4])),
    Outcome::Rejected(Refusal::Payload(PayloadProblem::NotAnObject)),
    Outcome::Rejected(Refusal::Payload(PayloadProblem::NullCharacter)),
    Outcome::Rejected(Refusal::Payload(PayloadProblem::LoneSurrogate)),
    Outcome::Rejected(Refusal::Payload(PayloadProblem::DuplicateKey)),
    Outcome::Rejected(Refusal::Payload(PayloadProblem::TooDeep)),
    Outcome::Rejected(Refusal::Payload(PayloadProblem::NumberOutOfRange)),
    Outcome::Rejected(Refusal::Payload(PayloadProblem::Damaged)),
    // Not produced today; kept so that every value has a byte.
    Outcome::Rejected(Refusal::EventId(TextProblem::Missing)),
    Outcome::Rejected(Refusal::SessionId(TextProblem::Missing)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_reads_back_from_its_byte() {
        for (byte, outcome) in ALL.iter().enumerate() {
            assert_eq!(outcome.to_byte(), byte as u8, "{outcome:?} stands twice");
            assert_eq!(Outcome::from_byte(byte as u8), Some(*outcome));
        }
        assert_eq!(Outcome::from_byte(255), None);
    }
}
