//! Reading answers as bytes, and the tags by which clients and caches know them again.

use axum::http::HeaderValue;
use bytes::Bytes;
use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128, xxh3_128_with_seed};

use super::answer::{EntriesAnswer, LookupAnswer, PeriodAnswer, StandingAnswer};
use crate::domain::clock::Micros;

/// What an answer about one period begins with.
#[derive(Debug, Serialize)]
pub struct Beginning<'a> {
    leaderboard: &'a str,
    period: PeriodAnswer,
    as_of: Micros,
}

/// An answer about one period, which says when that was read.
pub trait Dated: Serialize {
    /// Its first fields.
    fn beginning(&self) -> Beginning<'_>;
}

macro_rules! dated {
    ($($answer:ident),*) => {
        $(impl Dated for $answer<'_> {
            fn beginning(&self) -> Beginning<'_> {
                Beginning { leaderboard: self.leaderboard, period: self.period, as_of: self.as_of }
            }
        })*
    };
}

dated!(EntriesAnswer, StandingAnswer, LookupAnswer);

/// JSON and its tag.
///
/// The tag tells apart answers that differ by themselves, for which 128 bits are plenty, and is the same in every
/// process. It need not withstand somebody who looks for two answers with one tag: who finds them keeps a client, for
/// as long as the second lasts, on the first, which was true as well. Nothing else is decided by it.
pub fn encode(answer: &impl Serialize) -> (Bytes, HeaderValue) {
    let body = serde_json::to_vec(answer).unwrap_or_default();
    let tag = tag(xxh3_128(&body));
    (Bytes::from(body), tag)
}

/// JSON and the tag of everything in it but `as_of`: two answers with the same tag say the same, read at different
/// times, hence a weak tag. Otherwise as [`encode`].
pub fn encode_dated(answer: &impl Dated) -> (Bytes, HeaderValue) {
    let body = serde_json::to_vec(answer).unwrap_or_default();
    let beginning = answer.beginning();
    // Its hundred bytes are written once more, to know where they end: with the moment, a quote and a brace.
    let begins = serde_json::to_vec(&beginning).unwrap_or_default();
    let end = begins.len().saturating_sub(2);
    let at = end.saturating_sub(beginning.as_of.rfc3339().len());
    let hash = match body.strip_prefix(&begins[..end]) {
        Some(after) => xxh3_128_with_seed(after, xxh3_64(&begins[..at])),
        None => xxh3_128(&body),
    };
    (Bytes::from(body), tag(hash))
}

fn tag(hash: u128) -> HeaderValue {
    HeaderValue::try_from(format!("W/\"{hash:032x}\"")).unwrap_or(HeaderValue::from_static("W/\"0\""))
}

#[cfg(test)]
mod tests {
    use super::super::answer::EntryAnswer;
    use super::*;

    fn standing(as_of: Micros, total: u64) -> StandingAnswer<'static> {
        let entry = EntryAnswer {
            rank: 1,
            rank_among: None,
            player_id: "p-1",
            score: 5,
            subscore: 0,
            reached_at: Micros::EPOCH,
            plays: None,
            metadata: None,
        };
        let period = PeriodAnswer { id: 7, starts_at: Micros::EPOCH, ends_at: Some(Micros::from_seconds(86_400)) };
        StandingAnswer { leaderboard: "weekly", period, as_of, version: 3, include_version: None, total, entry }
    }

    fn entries(as_of: Micros) -> EntriesAnswer<'static> {
        let StandingAnswer { leaderboard, period, version, include_version, total, entry, .. } = standing(as_of, 1);
        let (entries, next_cursor, prev_cursor) = (vec![entry], None, None);
        EntriesAnswer { leaderboard, period, as_of, version, include_version, total, entries, next_cursor, prev_cursor }
    }

    fn lookup(as_of: Micros) -> LookupAnswer<'static> {
        let EntriesAnswer { leaderboard, period, version, include_version, total, entries, .. } = entries(as_of);
        LookupAnswer { leaderboard, period, as_of, version, include_version, total, entries }
    }

    #[test]
    fn answers_that_differ_only_in_when_they_were_read_have_one_tag() {
        // Both ends of the period among them: then the moment stands twice.
        let moments = [0, 1, 86_400_000_000, 1_700_000_000_000_000, 1_700_000_000_123_456].map(Micros);
        let tags_of = |tag: &dyn Fn(Micros) -> HeaderValue| {
            let tags: std::collections::HashSet<HeaderValue> = moments.into_iter().map(tag).collect();
            tags.len()
        };
        assert_eq!(tags_of(&|as_of| encode_dated(&standing(as_of, 1)).1), 1);
        assert_eq!(tags_of(&|as_of| encode_dated(&entries(as_of)).1), 1);
        assert_eq!(tags_of(&|as_of| encode_dated(&lookup(as_of)).1), 1);
        let (body, other) = encode_dated(&standing(moments[0], 2));
        assert_ne!(encode_dated(&standing(moments[0], 1)).1, other);
        assert_ne!(encode(&standing(moments[0], 2)).1, other, "all of it counts in one that is not dated");
        assert_eq!(body, encode(&standing(moments[0], 2)).0);
    }
}
