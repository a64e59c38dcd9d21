//! The directory as text: one JSON object per game, made from Postgres and carried by Redis.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Directory, GameEntry, KeyEntry, KeyHash, KeyKind, LeaderboardEntry};
use crate::domain::board::{BoardGeneration, CompiledBoard, GenerationState, LeaderboardSpec};
use crate::domain::ids::{BoardGenerationId, GameId, Slug};

/// A game, its unrevoked keys and its leaderboards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GameSnapshot {
    /// `games.id`.
    pub id: GameId,
    /// Its name in URLs.
    pub slug: Slug,
    /// Events a minute per player.
    pub limit_player_events: Option<u32>,
    /// Events a minute in all.
    pub limit_game_events: Option<u32>,
    /// Unrevoked keys.
    pub keys: Vec<KeySnapshot>,
    /// Every leaderboard.
    pub leaderboards: Vec<LeaderboardSnapshot>,
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySnapshot {
    /// `api_keys.id`.
    pub id: i32,
    /// What it may do.
    pub kind: KeyKind,
    /// SHA-256 of the key in hexadecimal.
    pub sha256: String,
}

/// A leaderboard with the generations that count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaderboardSnapshot {
    /// `leaderboards.id`.
    pub id: i32,
    /// As last written.
    pub spec: LeaderboardSpec,
    /// Live and building generations.
    pub generations: Vec<GenerationSnapshot>,
}

/// One generation of a leaderboard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationSnapshot {
    /// `leaderboard_generations.id`.
    pub id: BoardGenerationId,
    /// See [`BoardGeneration::since_generation`].
    pub since_generation: i32,
    /// Live or building.
    pub state: GenerationState,
    /// The leaderboard as it was when this generation was made.
    pub spec: LeaderboardSpec,
}

/// Every game at one version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// `directory_version.version`.
    pub version: i64,
    /// All games.
    pub games: Vec<GameSnapshot>,
}

impl Directory {
    /// Builds the maps. What is damaged (a hash that is none, a definition that does not compile) is left out and
    /// logged: it must not cost the other games anything.
    pub fn from_snapshot(snapshot: Snapshot) -> Self {
        let mut directory = Self { version: snapshot.version, ..Self::default() };
        for game in snapshot.games {
            let keys = game.keys.clone();
            let entry = Arc::new(game_entry(game));
            for key in keys {
                match decode_hash(&key.sha256) {
                    Some(hash) => {
                        directory.keys.insert(hash, KeyEntry { id: key.id, kind: key.kind, game: Arc::clone(&entry) });
                    }
                    None => tracing::error!(key = key.id, "the stored hash of a key is damaged"),
                }
            }
            directory.games.insert(entry.slug.clone(), entry);
        }
        directory
    }
}

fn decode_hash(text: &str) -> Option<KeyHash> {
    let mut hash = KeyHash::default();
    hex::decode_to_slice(text, &mut hash).ok().map(|()| hash)
}

fn game_entry(game: GameSnapshot) -> GameEntry {
    let mut feeds: HashMap<String, Vec<Arc<CompiledBoard>>> = HashMap::new();
    let mut leaderboards = HashMap::new();
    for board in game.leaderboards {
        let mut live = None;
        let mut building = false;
        for generation in board.generations {
            let id = generation.id;
            let stored = BoardGeneration {
                id,
                leaderboard_id: board.id,
                game_id: game.id,
                since_generation: generation.since_generation,
                state: generation.state,
                spec: generation.spec,
            };
            match CompiledBoard::compile(stored) {
                Ok(compiled) => {
                    let compiled = Arc::new(compiled);
                    match compiled.generation.state {
                        GenerationState::Live => live = Some(Arc::clone(&compiled)),
                        GenerationState::Building => building = true,
                        GenerationState::Retired => continue,
                    }
                    let event_type = compiled.generation.spec.definition.event_type.as_str().to_owned();
                    feeds.entry(event_type).or_default().push(compiled);
                }
                Err(error) => tracing::error!(generation = id.0, %error, "leaderboard definition is unusable"),
            }
        }
        let spec = board.spec;
        leaderboards.insert(
            spec.slug.clone(),
            LeaderboardEntry {
                id: board.id,
                live,
                building,
                name: spec.name.clone().unwrap_or_else(|| spec.slug.as_str().to_owned()),
                public: spec.public,
                tie_policy: spec.tie_policy,
                spec: Arc::new(spec),
            },
        );
    }
    GameEntry {
        id: game.id,
        slug: game.slug,
        limit_player_events: game.limit_player_events,
        limit_game_events: game.limit_game_events,
        feeds,
        leaderboards,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(slug: &str, score: &str) -> LeaderboardSpec {
        serde_json::from_value(serde_json::json!({"slug": slug, "event_type": "game_ended", "score": score})).unwrap()
    }

    fn board(id: i32, slug: &str, score: &str, state: GenerationState) -> LeaderboardSnapshot {
        let generation =
            GenerationSnapshot { id: BoardGenerationId(id * 10), since_generation: 1, state, spec: spec(slug, score) };
        LeaderboardSnapshot { id, spec: spec(slug, score), generations: vec![generation] }
    }

    #[test]
    fn a_snapshot_reads_back_and_damage_costs_only_itself() {
        let key = |id, sha256: &str| KeySnapshot { id, kind: KeyKind::Server, sha256: sha256.to_owned() };
        let game = GameSnapshot {
            id: GameId(1),
            slug: Slug::parse("demo").unwrap(),
            limit_player_events: Some(5),
            limit_game_events: None,
            keys: vec![key(1, &hex::encode(hash_of("k"))), key(2, "damaged")],
            leaderboards: vec![
                board(1, "good", "/score", GenerationState::Live),
                board(2, "new", "/score", GenerationState::Building),
                board(3, "broken", "score", GenerationState::Live),
            ],
        };
        let text = serde_json::to_string(&game).unwrap();
        let again: GameSnapshot = serde_json::from_str(&text).unwrap();
        assert_eq!(again, game);
        let directory = Directory::from_snapshot(Snapshot { version: 7, games: vec![again] });
        assert_eq!(directory.authenticate("k").map(|k| (k.id, k.game.id)), Some((1, GameId(1))));
        assert!(directory.authenticate("other").is_none());
        let entry = &directory.games[&Slug::parse("demo").unwrap()];
        assert_eq!(entry.feeds["game_ended"].len(), 2);
        let live = |slug: &str| entry.leaderboards[&Slug::parse(slug).unwrap()].live.is_some();
        assert_eq!((live("good"), live("new"), live("broken")), (true, false, false));
    }

    fn hash_of(key: &str) -> KeyHash {
        super::super::hash_key(key)
    }
}
