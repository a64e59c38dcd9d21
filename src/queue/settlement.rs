//! How a job ends.

use std::borrow::Cow;

use crate::domain::ids::GameId;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Its effects are durable: forget it.
    Done,
    /// A dependency was down: run it again soon. Consumes no attempt; the worker pauses before it takes more.
    Transient {
        /// What happened, for the log and the dead letter.
        error: String,
    },
    /// It fails while others succeed, and not for a fault of its data that is known: it is set aside for a while,
    /// longer each time. Consumes no attempt and holds nobody else up.
    Blocked {
        /// Whose job it is.
        game: GameId,
        /// What happened.
        error: String,
    },
    /// It failed and may succeed later. Consumes an attempt; the last one makes a dead letter.
    Retry {
        /// What happened.
        error: String,
    },
    /// It cannot succeed: a dead letter at once.
    Fail {
        /// A stable code in `snake_case`, for example `undecodable`.
        reason: Cow<'static, str>,
        /// What happened.
        error: String,
    },
}

impl Settlement {
    /// A dead letter at once.
    pub fn fail(reason: &'static str, error: impl std::fmt::Display) -> Self {
        Self::Fail { reason: reason.into(), error: error.to_string() }
    }

    /// Its name in metrics.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Transient { .. } => "transient",
            Self::Blocked { .. } => "blocked",
            Self::Retry { .. } => "retry",
            Self::Fail { .. } => "fail",
        }
    }
}
