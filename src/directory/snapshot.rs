//! The directory as text: one JSON object per game, made by Postgres and carried by Redis.
//!
//! Whoever publishes it does not look inside, and whoever reads it reads key by key and board by board: what one
//! version of the program cannot read, a newer one wrote for those that can. It costs nobody else anything, and above
//! all no revocation of a key.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{Directory, GameEntry, KeyEntry, KeyHash, KeyKind, LeaderboardEntry};
use crate::domain::board::{BoardGeneration, CompiledBoard, GenerationState, LeaderboardSpec};
use crate::domain::ids::{BoardGenerationId, GameId, Slug};

pub use crate::domain::directory::{GameText, Snapshot};

/// What was read of one game, and of which text.
#[derive(Debug)]
pub struct Part {
    digest: String,
    game: Option<Arc<GameEntry>>,
    keys: Vec<Key>,
}

impl Part {
    fn read(text: &GameText) -> Arc<Self> {
        let digest = text.digest();
        Arc::new(match read_game(text) {
            Some((game, keys)) => Self { digest, game: Some(Arc::new(game)), keys },
            None => Self { digest, game: None, keys: Vec::new() },
        })
    }
}

/// A key without its secret.
#[derive(Debug, Deserialize)]
struct KeySnapshot {
    /// `api_keys.id`.
    id: i32,
    kind: KeyKind,
    /// SHA-256 of the key in hexadecimal.
    sha256: String,
}

/// A leaderboard with the generations that count, each part still as text.
#[derive(Debug, Deserialize)]
struct LeaderboardSnapshot {
    /// `leaderboards.id`.
    id: i32,
    /// As last written.
    spec: Box<RawValue>,
    /// Live and building generations.
    #[serde(default)]
    generations: Vec<Box<RawValue>>,
}

/// One generation of a leaderboard.
#[derive(Debug, Deserialize)]
struct GenerationSnapshot {
    id: BoardGenerationId,
    since_generation: i32,
    state: GenerationState,
    /// The leaderboard as it was when this generation was made.
    spec: LeaderboardSpec,
}

impl Directory {
    /// Builds the maps. What cannot be read is left out and logged.
    pub fn from_snapshot(snapshot: Snapshot) -> Self {
        let parts = snapshot.games.iter().map(|game| (game.id, Part::read(game))).collect();
        Self::of_parts(snapshot.version, snapshot.mark, parts)
    }

    /// The directory of a snapshot, as [`Self::from_snapshot`]; what this one has alike is not read again.
    #[must_use]
    pub fn next(&self, snapshot: Snapshot) -> Self {
        let part = |game: &GameText| match self.parts.get(&game.id) {
            Some(held) if held.digest == game.digest() => Arc::clone(held),
            _ => Part::read(game),
        };
        let parts = snapshot.games.iter().map(|game| (game.id, part(game))).collect();
        Self::of_parts(snapshot.version, snapshot.mark, parts)
    }

    fn of_parts(version: i64, mark: String, parts: HashMap<GameId, Arc<Part>>) -> Self {
        let mut directory = Self { version, mark, ..Self::default() };
        for part in parts.values() {
            let Some(entry) = &part.game else { continue };
            for (hash, id, kind) in &part.keys {
                directory.keys.insert(*hash, KeyEntry { id: *id, kind: *kind, game: Arc::clone(entry) });
            }
            directory.games.insert(entry.slug.clone(), Arc::clone(entry));
        }
        Self { parts, ..directory }
    }

    /// Games of another snapshot, told by their digests, that are not as this one has them.
    pub(super) fn differing(&self, digests: &HashMap<GameId, String>) -> Vec<GameId> {
        let same = |id: &GameId, digest: &String| self.parts.get(id).is_some_and(|part| part.digest == *digest);
        digests.iter().filter(|(id, digest)| !same(id, digest)).map(|(id, _)| *id).collect()
    }

    /// Another snapshot of which only the games that differ were read. `None`: `changed` is not what `digests` say.
    pub(super) fn with_changes(
        &self,
        version: i64,
        mark: String,
        digests: &HashMap<GameId, String>,
        changed: &[GameText],
    ) -> Option<Self> {
        let changed: HashMap<GameId, Arc<Part>> = changed.iter().map(|game| (game.id, Part::read(game))).collect();
        let part = |id: &GameId, digest: &String| {
            let part = changed.get(id).or_else(|| self.parts.get(id))?;
            (part.digest == *digest).then(|| (*id, Arc::clone(part)))
        };
        let parts = digests.iter().map(|(id, digest)| part(id, digest)).collect::<Option<_>>()?;
        Some(Self::of_parts(version, mark, parts))
    }
}

/// A part of a game's text, or nothing and a line in the log.
fn read<T: DeserializeOwned>(game: GameId, part: &str, text: &RawValue) -> Option<T> {
    let read = serde_json::from_str(text.get());
    read.inspect_err(|error| tracing::error!(%game, part, %error, "a part of the directory cannot be read; left out"))
        .ok()
}

type Key = (KeyHash, i32, KeyKind);

fn read_game(text: &GameText) -> Option<(GameEntry, Vec<Key>)> {
    let id = text.id;
    let parts: HashMap<String, Box<RawValue>> = match serde_json::from_str(&text.json) {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!(game = %id, %error, "a game of the directory cannot be read; left out");
            return None;
        }
    };
    let list = |name: &str| -> Vec<Box<RawValue>> {
        parts.get(name).and_then(|text| read(id, name, text)).unwrap_or_default()
    };
    let limit =
        |name: &str| -> Option<u32> { parts.get(name).and_then(|text| read::<Option<u32>>(id, name, text)).flatten() };
    let mut game = GameEntry {
        id,
        slug: read(id, "slug", parts.get("slug")?)?,
        limit_player_events: limit("limit_player_events"),
        limit_game_events: limit("limit_game_events"),
        feeds: HashMap::new(),
        leaderboards: HashMap::new(),
        unreadable: std::collections::HashSet::new(),
    };
    for board in list("leaderboards") {
        if let Some(board) = read(id, "leaderboard", &board) {
            add_leaderboard(&mut game, board);
        }
    }
    let keys = list("keys").into_iter().filter_map(|key| read_key(id, &key));
    Some((game, keys.collect()))
}

fn read_key(game: GameId, text: &RawValue) -> Option<Key> {
    let key: KeySnapshot = read(game, "key", text)?;
    let mut hash = KeyHash::default();
    match hex::decode_to_slice(&key.sha256, &mut hash) {
        Ok(()) => Some((hash, key.id, key.kind)),
        Err(error) => {
            tracing::error!(%game, key = key.id, %error, "the stored hash of a key is damaged");
            None
        }
    }
}

fn add_leaderboard(game: &mut GameEntry, board: LeaderboardSnapshot) {
    let (mut live, mut building) = (None, false);
    let mut spec: Option<LeaderboardSpec> = read(game.id, "leaderboard's definition", &board.spec);
    for text in &board.generations {
        let Some(compiled) = compile(game.id, board.id, text) else {
            // A newer program counts it: until this one is replaced its events are urgent all the same.
            if let Some(event_type) = text_at(text, "/spec/event_type") {
                game.feeds.entry(event_type).or_default();
            }
            building = true;
            continue;
        };
        match compiled.generation.state {
            GenerationState::Live => live = Some(Arc::clone(&compiled)),
            GenerationState::Building => building = true,
            GenerationState::Retired => continue,
        }
        // What is written may be for newer programs; what players see need not be.
        spec.get_or_insert_with(|| compiled.generation.spec.clone());
        let event_type = compiled.generation.spec.definition.event_type.as_str().to_owned();
        game.feeds.entry(event_type).or_default().push(compiled);
    }
    let Some(spec) = spec else {
        game.unreadable.extend(text_at(&board.spec, "/slug").and_then(|slug| Slug::parse(&slug).ok()));
        return;
    };
    let entry = LeaderboardEntry {
        id: board.id,
        live,
        building,
        name: spec.name.clone().unwrap_or_else(|| spec.slug.as_str().to_owned()),
        public: spec.public,
        tie_policy: spec.tie_policy,
        spec: Arc::new(spec),
    };
    game.leaderboards.insert(entry.spec.slug.clone(), entry);
}

fn compile(game_id: GameId, leaderboard_id: i32, text: &RawValue) -> Option<Arc<CompiledBoard>> {
    let GenerationSnapshot { id, since_generation, state, spec } = read(game_id, "leaderboard's generation", text)?;
    let compiled =
        CompiledBoard::compile(BoardGeneration { id, leaderboard_id, game_id, since_generation, state, spec });
    compiled
        .inspect_err(|error| tracing::error!(generation = id.0, %error, "leaderboard definition is unusable"))
        .ok()
        .map(Arc::new)
}

/// A text within a JSON value that cannot be read as a whole.
fn text_at(json: &RawValue, pointer: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(json.get()).ok()?;
    value.pointer(pointer)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::hash_key;
    use super::*;

    fn spec(slug: &str, score: &str) -> Value {
        json!({"slug": slug, "event_type": "game_ended", "score": score})
    }

    fn board(id: i32, slug: &str, score: &str, state: &str) -> Value {
        json!({"id": id, "spec": spec(slug, score),
               "generations": [{"id": id * 10, "since_generation": 1, "state": state, "spec": spec(slug, score)}]})
    }

    fn directory(game: &Value) -> Directory {
        let games = vec![GameText { id: GameId(1), json: game.to_string() }];
        Directory::from_snapshot(Snapshot { version: 7, mark: String::new(), games })
    }

    fn slug(text: &str) -> Slug {
        Slug::parse(text).unwrap()
    }

    #[test]
    fn damage_costs_only_itself() {
        let directory = directory(&json!({
            "id": 1, "slug": "demo", "limit_player_events": 5, "limit_game_events": null,
            "keys": [{"id": 1, "kind": "server", "sha256": hex::encode(hash_key("k"))},
                     {"id": 2, "kind": "server", "sha256": "damaged"}],
            "leaderboards": [board(1, "good", "/score", "live"), board(2, "new", "/score", "building"),
                             board(3, "broken", "score", "live")],
        }));
        assert_eq!(directory.authenticate("k").map(|k| (k.id, k.game.id)), Some((1, GameId(1))));
        assert!(directory.authenticate("other").is_none());
        let entry = &directory.games[&slug("demo")];
        assert_eq!((entry.limit_player_events, entry.limit_game_events), (Some(5), None));
        assert_eq!(entry.feeds["game_ended"].len(), 2);
        let live = |name: &str| entry.leaderboards[&slug(name)].live.is_some();
        assert_eq!((live("good"), live("new"), live("broken")), (true, false, false));
    }

    #[test]
    fn what_a_newer_program_wrote_costs_only_itself() {
        let mut with_match = board(2, "matched", "/score", "live");
        with_match["generations"][0]["spec"]["match"] = json!([{"pointer": "/mode", "equals": "x", "unless": 1}]);
        let mut edited = board(3, "edited", "/score", "live");
        edited["spec"]["reset"] = json!({"lunar": 1});
        let mut unknown = board(4, "unknown", "/score", "live");
        unknown["spec"]["reset"] = json!("hourly");
        unknown["generations"][0]["spec"]["reset"] = json!("hourly");
        unknown["generations"][0]["spec"]["event_type"] = json!("moon_rose");
        let directory = directory(&json!({
            "id": 1, "slug": "demo", "limit_player_events": {"per": "hour"}, "colour": "red",
            "keys": [{"id": 1, "kind": "observer", "sha256": hex::encode(hash_key("o"))},
                     {"id": 2, "kind": "client", "sha256": hex::encode(hash_key("k")), "expires": 1}],
            "leaderboards": [board(1, "good", "/score", "live"), with_match, edited, unknown, {"id": 5}],
        }));
        assert!(directory.authenticate("o").is_none(), "what a key may do must be known");
        assert_eq!(directory.authenticate("k").map(|k| k.id), Some(2));
        let entry = &directory.games[&slug("demo")];
        assert!(entry.leaderboards[&slug("good")].live.is_some());
        let matched = &entry.leaderboards[&slug("matched")];
        assert!(matched.live.is_none() && matched.building, "answered as one that is being computed");
        assert!(entry.leaderboards[&slug("edited")].live.is_some(), "players see what they saw");
        assert!(!entry.leaderboards.contains_key(&slug("unknown")));
        assert!(entry.unreadable.contains(&slug("unknown")));
        assert!(entry.feeds.contains_key("moon_rose"), "its events are urgent");
    }

    #[test]
    fn a_game_that_cannot_be_read_costs_only_itself() {
        let games = [(1, "[1]"), (2, "{\"slug\": 7}"), (3, "{\"slug\": \"fine\", \"keys\": 3}")];
        let games = games.map(|(id, json)| GameText { id: GameId(id), json: json.to_owned() });
        let directory = Directory::from_snapshot(Snapshot { games: games.to_vec(), ..Snapshot::default() });
        assert_eq!(directory.games.keys().map(Slug::as_str).collect::<Vec<_>>(), ["fine"]);
    }
}
