//! Removing boards: retired ones, and those that Redis holds and no database knows. The latter are of a history that
//! was lost when Postgres went back in time.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use redis::{Script, ScriptInvocation};

use super::beacon::ToldBeacon;
use super::connection::Ranking;
use super::error::RankingError;
use crate::domain::ids::BoardGenerationId;

static REMOVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/remove_board.lua")));

/// Keys that one step of the search looks at, about: half a millisecond of Redis.
const KEYS_PER_STEP: usize = 1_000;
/// Keys that are removed in one call beside those that the board names.
const KEYS_PER_CALL: usize = 500;

/// What a board was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenBoard {
    generation: BoardGenerationId,
    beacon: ToldBeacon,
    state: Vec<Option<String>>,
}

impl SeenBoard {
    /// The last beacon that Redis was told of when it was looked at.
    pub fn beacon(&self) -> &ToldBeacon {
        &self.beacon
    }
}

impl Ranking {
    /// One step of a search through all keys: the boards whose keys it met, with those. The next step goes on behind
    /// it, and after the last the search begins anew. Says whether this was the last.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn search_boards(&self) -> Result<(BTreeMap<BoardGenerationId, Vec<String>>, bool), RankingError> {
        let beginning = self.beginning();
        let mut pipeline = redis::pipe();
        pipeline.cmd("SCAN").arg(self.searched().load(Ordering::Relaxed));
        pipeline.arg("MATCH").arg(format!("{}*", literally(&beginning))).arg("COUNT").arg(KEYS_PER_STEP);
        let ((next, keys),): ((u64, Vec<Vec<u8>>),) = self.pipe(&pipeline).await?;
        self.searched().store(next, Ordering::Relaxed);
        let mut boards: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for key in keys.into_iter().filter_map(|key| String::from_utf8(key).ok()) {
            let number = key.strip_prefix(&beginning).and_then(|rest| rest.split_once("}:"));
            if let Some(generation) = number.and_then(|(number, _)| number.parse().ok()) {
                boards.entry(BoardGenerationId(generation)).or_default().push(key);
            }
        }
        Ok((boards, next == 0))
    }

    /// What a board is now. `None`: Redis was told of no beacon, so nobody can say what is lost.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn see_board(&self, generation: BoardGenerationId) -> Result<Option<SeenBoard>, RankingError> {
        let base = self.base(generation);
        let state = ["ready", "version", "era"].map(|name| format!("{base}{name}"));
        let mut pipeline = redis::pipe();
        pipeline.get(self.beacon_key()).cmd("MGET").arg(&state);
        let (told, state): (Option<String>, Vec<Option<String>>) = self.pipe(&pipeline).await?;
        let beacon = told.as_deref().and_then(ToldBeacon::parse);
        Ok(beacon.map(|beacon| SeenBoard { generation, beacon, state }))
    }

    /// Removes a lost board, and these keys of it. `false`: it, or what Redis knows of Postgres, is not what was seen,
    /// or it is being rebuilt. Its number was given out anew, so it is somebody's.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn remove_lost(&self, seen: &SeenBoard, keys: &[String]) -> Result<bool, RankingError> {
        let base = self.base(seen.generation);
        let stray: Vec<&String> = keys.iter().filter(|key| key.starts_with(&base)).collect();
        let mut seen = seen.clone();
        for stray in stray.chunks(KEYS_PER_CALL) {
            let mut call = self.removal(&base);
            for key in stray {
                call.key(*key);
            }
            call.arg(seen.beacon.text());
            for value in &seen.state {
                call.arg(value.as_deref().unwrap_or_default());
            }
            if self.call::<i64>(&call).await? != 1 {
                return Ok(false);
            }
            seen.state.fill(None);
        }
        Ok(true)
    }

    /// Removes everything of a retired board.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn remove_board(&self, generation: BoardGenerationId) -> Result<(), RankingError> {
        self.call::<i64>(&self.removal(&self.base(generation))).await?;
        self.forget_given(generation);
        Ok(())
    }

    /// The call that removes the board of these keys, whatever it is.
    fn removal(&self, base: &str) -> ScriptInvocation<'static> {
        let mut call = REMOVE.prepare_invoke();
        call.key(self.beacon_key()).arg(base);
        for name in ["ready", "version", "era", "rebuild", "periods", "shadow:periods"] {
            call.key(format!("{base}{name}"));
        }
        call
    }
}

/// A text as a pattern that matches it alone.
fn literally(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len() + 4), |mut pattern, c| {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
        pattern
    })
}
