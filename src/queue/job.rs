//! A job in a worker's hands, and how it ends.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::keys::Lane;
use super::payload::{Kind, kind_of};
use super::settle::Settler;
use crate::domain::clock::Micros;
use crate::domain::ids::GameId;

/// A job that this process was given. It names the job and the *tenure* in which the worker got it: a worker that was
/// given up for dead and came back works under a new tenure, and what it settles for the old one does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JobId {
    pub(super) text: Arc<str>,
    pub(super) tenure: u32,
}

impl JobId {
    /// The id as in Redis, dead letters and logs: `<received_at in µs>-<batch id>@<game>.<bytes>-<h|l>`, or with `n:` and a
    /// unique name between; what is queued later of the same batch has `.<events before>` behind the batch id.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// What an id says of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdParts<'a> {
    /// When ingest received it (Redis's clock).
    pub received_at: Micros,
    /// The batch id, or `n:` and the unique name of an internal job.
    pub name: &'a str,
    /// Its lane.
    pub lane: Lane,
}

/// Takes an id apart; `None` when it is none.
pub fn parse_id(text: &str) -> Option<IdParts<'_>> {
    let (received_at, rest) = text.split_once('-')?;
    let (name, lane) = rest.rsplit_once('-')?;
    let lane = match lane {
        "h" => Lane::High,
        "l" => Lane::Low,
        _ => return None,
    };
    let digits = !received_at.is_empty() && received_at.bytes().all(|b| b.is_ascii_digit());
    let received_at = Micros(received_at.parse().ok().filter(|_| digits)?);
    (!name.is_empty()).then_some(IdParts { received_at, name, lane })
}

/// The unique name of an internal job, when `id` is one.
pub(super) fn unique_name(id: &str) -> Option<&str> {
    parse_id(id)?.name.strip_prefix("n:")
}

/// A job handed to a [`super::JobRunner`].
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Which job.
    pub id: JobId,
    /// Its lane.
    pub lane: Lane,
    /// When ingest received it (Redis's clock).
    pub received_at: Micros,
    /// The payload (`queue/payload.rs`).
    pub bytes: Bytes,
    /// Attempts that failed before this one.
    pub attempts: u32,
    /// Times it was running alone when its worker died.
    pub crashes: u32,
    /// Times in a row it was set aside ([`Settlement::Blocked`]).
    pub blocked: u32,
    /// Rescued from a dead worker: only suspects are in this worker's hands, and nothing else joins them.
    pub suspect: bool,
    pub(super) settler: Settler,
}

impl Delivery {
    /// Whether it may have run before, in part or in whole (rescued, retried or set aside), so that its effects may be
    /// there.
    pub fn ran_before(&self) -> bool {
        self.suspect || self.attempts > 0 || self.crashes > 0 || self.blocked > 0
    }

    /// What it does; the queue hands out only kinds that this program knows.
    pub fn kind(&self) -> Option<Kind> {
        kind_of(&self.bytes).ok()
    }

    /// Settles this worker's jobs; the same for every job of a worker.
    pub fn settler(&self) -> &Settler {
        &self.settler
    }
}

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
    /// It fails while others succeed, and not for a fault of its data that is known: it is set aside for a while, longer
    /// each time. Consumes no attempt and holds nobody else up.
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

/// Most bytes of an error kept with a job.
const MAX_ERROR: usize = 2_000;
/// The same for a job that is set aside: a game may have very many, and its share does not count errors.
const MAX_BLOCKED_ERROR: usize = 200;

/// What Redis keeps of a job that failed or was rescued: `<attempts> <crashes> <error>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    pub attempts: u32,
    pub crashes: u32,
    pub error: String,
}

impl Trouble {
    /// Reads what [`Trouble::encode`] or the rescue script wrote; damaged text counts as no trouble.
    pub fn decode(text: &str) -> Self {
        let mut parts = text.splitn(3, ' ');
        let mut number = || parts.next().and_then(|p| p.parse().ok()).unwrap_or_default();
        let (attempts, crashes) = (number(), number());
        Self { attempts, crashes, error: parts.next().unwrap_or_default().to_owned() }
    }

    /// `<attempts> <crashes> <error>`, the error cut to a bounded length.
    pub fn encode(&self) -> String {
        format!("{} {} {}", self.attempts, self.crashes, cut(&self.error))
    }

    /// That of a job which is set aside for the `times`-th time in a row.
    pub fn blocked(attempts: u32, crashes: u32, times: u32, game: GameId, error: &str) -> Self {
        let error = cut_at(error, MAX_BLOCKED_ERROR);
        Self { attempts, crashes, error: format!("{BLOCKED}{times}, game {game}: {error}") }
    }

    /// How often in a row the job was set aside.
    pub fn times_blocked(&self) -> u32 {
        let times = self.error.strip_prefix(BLOCKED).and_then(|rest| rest.split_once(','));
        times.and_then(|(times, _)| times.parse().ok()).unwrap_or_default()
    }
}

/// The error of a suspect whose worker died while it ran in a company of them. It is charged no crash, and runs alone.
pub(super) const DIED_IN_COMPANY: &str = "its worker died while running it among a few";

/// How the error of a job begins that is set aside; `fetch.lua` looks for it.
const BLOCKED: &str = "blocked ";

/// An error's text, cut to a bounded length.
pub(super) fn cut(error: &str) -> &str {
    cut_at(error, MAX_ERROR)
}

fn cut_at(error: &str, most: usize) -> &str {
    let mut end = error.len().min(most);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    &error[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_job_that_is_set_aside_knows_how_often() {
        let blocked = Trouble::blocked(1, 2, 7, GameId(3), "no rights");
        assert_eq!(blocked.encode(), "1 2 blocked 7, game 3: no rights");
        let read = Trouble::decode(&blocked.encode());
        assert_eq!((read.times_blocked(), read.attempts, read.crashes), (7, 1, 2));
        assert_eq!(Trouble::decode("0 0 blocked, somehow").times_blocked(), 0);
        assert_eq!(Trouble::default().times_blocked(), 0);
        let long = Trouble::blocked(0, 0, 1, GameId(3), &"ö".repeat(1_000));
        assert_eq!(long.error.strip_prefix("blocked 1, game 3: "), Some("ö".repeat(100).as_str()));
    }

    #[test]
    fn an_id_says_when_what_and_which_lane() {
        let id = "1763719200000000-018f3b5e-7d1a-7c3e-9a55-1f2e3d4c5b6a-h";
        let parts = parse_id(id).unwrap();
        assert_eq!(parts.received_at, Micros(1_763_719_200_000_000));
        assert_eq!((parts.name, parts.lane), ("018f3b5e-7d1a-7c3e-9a55-1f2e3d4c5b6a", Lane::High));
        assert_eq!(unique_name("5-n:settle-7-l"), Some("settle-7"));
        assert_eq!(unique_name(id), None);
        for bad in ["", "x", "5-h", "5--h", "-a-h", "+5-a-h", "5-a-x"] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn trouble_reads_back_as_written(attempts in any::<u32>(), crashes in any::<u32>(), error in ".{0,900}") {
            let trouble = Trouble { attempts, crashes, error };
            let read = Trouble::decode(&trouble.encode());
            prop_assert_eq!((read.attempts, read.crashes), (attempts, crashes));
            prop_assert!(trouble.error.starts_with(&read.error));
        }

        #[test]
        fn reading_an_id_or_trouble_never_panics(text in ".{0,60}") {
            let _ = parse_id(&text);
            let _ = Trouble::decode(&text);
        }
    }
}
