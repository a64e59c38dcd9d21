//! What Redis keeps of a job that failed, was rescued or is set aside.

use crate::domain::ids::GameId;

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

    proptest! {
        #[test]
        fn trouble_reads_back_as_written(attempts in any::<u32>(), crashes in any::<u32>(), error in ".{0,900}") {
            let trouble = Trouble { attempts, crashes, error };
            let read = Trouble::decode(&trouble.encode());
            prop_assert_eq!((read.attempts, read.crashes), (attempts, crashes));
            prop_assert!(trouble.error.starts_with(&read.error));
        }

        #[test]
        fn reading_trouble_never_panics(text in ".{0,60}") {
            let _ = Trouble::decode(&text);
        }
    }
}
