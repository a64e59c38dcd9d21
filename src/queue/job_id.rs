//! What names a job, and what its name says.

use std::sync::Arc;

use super::keys::Lane;
use crate::domain::clock::Micros;

/// A job that this process was given. It names the job and the *tenure* in which the worker got it: a worker that was
/// given up for dead and came back works under a new tenure, and what it settles for the old one does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JobId {
    pub(super) text: Arc<str>,
    pub(super) tenure: u32,
}

impl JobId {
    /// The id as in Redis, dead letters and logs: `<received_at in µs>-<batch id>@<game>.<bytes>-<h|l>`, or with `n:`
    /// and a unique name between; what is queued later of the same batch has `.<events before>` behind the batch id.
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

/// Takes an id apart; `None` when the text is not one.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        fn reading_an_id_never_panics(text in ".{0,60}") {
            let _ = parse_id(&text);
        }
    }
}
