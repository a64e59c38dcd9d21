//! The players: a pure model. The same seed gives the same game.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use crate::domain::clock::Micros;

const MODES: [&str; 3] = ["ranked", "casual", "duel"];
const NAMES: [&str; 12] =
    ["ada", "bjarne", "chandra", "dmitri", "esra", "femi", "goro", "hana", "iris", "jomo", "kaya", "lena"];
/// The most that a perfect player scores in a game.
const BEST_SCORE: f64 = 10_000.0;

/// An event as it is sent.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SimulatedEvent {
    /// A UUIDv7 of the moment it happened.
    pub event_id: Uuid,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: &'static str,
    /// Who did it.
    pub player_id: String,
    /// The sitting.
    pub session_id: String,
    /// When.
    pub occurred_at: Micros,
    /// What there is to say about it.
    pub payload: serde_json::Value,
}

/// What a player does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    SignIn,
    StartGame,
    EndGame { mode: &'static str },
    CelebrateWin { mode: &'static str },
}

struct Player {
    name: String,
    /// 0 to 1; most are in the middle.
    skill: f64,
    session: u32,
    games: u32,
    next: Next,
}

/// The id of the `n`th player (from 0).
pub fn name(n: usize) -> String {
    format!("{}-{}", NAMES[n % NAMES.len()], n / NAMES.len() + 1)
}

/// Everyone who plays.
pub struct Players {
    random: SmallRng,
    players: Vec<Player>,
}

impl Players {
    /// `count` players.
    pub fn new(count: usize, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let players = (0..count.max(1))
            .map(|n| Player {
                name: name(n),
                skill: (random.random::<f64>() + random.random::<f64>()) / 2.0,
                session: random.random(),
                games: 0,
                // Half of them are in a game already, so that boards move at once.
                next: if n % 2 == 0 { Next::SignIn } else { Next::EndGame { mode: MODES[n % MODES.len()] } },
            })
            .collect();
        Self { random, players }
    }

    /// Somebody does the next thing, at `now`.
    pub fn next_event(&mut self, now: Micros) -> SimulatedEvent {
        let index = self.random.random_range(0..self.players.len());
        let (event_type, payload) = self.act(index);
        let random: [u8; 10] = self.random.random();
        let player = &self.players[index];
        let millis = u64::try_from(now.0 / 1_000).unwrap_or(0);
        SimulatedEvent {
            event_id: uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid(),
            event_type,
            player_id: player.name.clone(),
            session_id: format!("s-{:08x}", player.session),
            occurred_at: now,
            payload,
        }
    }

    fn act(&mut self, index: usize) -> (&'static str, serde_json::Value) {
        let random = &mut self.random;
        let player = &mut self.players[index];
        match player.next {
            Next::SignIn => {
                player.session = random.random();
                player.games = 0;
                player.next = Next::StartGame;
                ("session_started", serde_json::json!({ "platform": (["pc", "phone", "web"])[index % 3] }))
            }
            Next::StartGame if player.games >= 5 && random.random_bool(0.3) => {
                player.next = Next::SignIn;
                ("session_ended", serde_json::json!({ "games": player.games }))
            }
            Next::StartGame => {
                let mode = MODES[random.random_range(0..MODES.len())];
                player.next = Next::EndGame { mode };
                ("game_started", serde_json::json!({ "mode": mode }))
            }
            Next::EndGame { mode } => {
                player.games += 1;
                let luck: f64 = random.random();
                let share = player.skill.mul_add(0.7, luck * 0.3);
                let won = random.random::<f64>() < player.skill;
                player.next = if won { Next::CelebrateWin { mode } } else { Next::StartGame };
                let score = (share * share * BEST_SCORE) as i64;
                ("game_ended", serde_json::json!({ "score": score, "mode": mode, "won": won }))
            }
            Next::CelebrateWin { mode } => {
                player.next = Next::StartGame;
                ("game_won", serde_json::json!({ "mode": mode }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_game_and_every_kind_of_event() {
        let play = |seed| {
            let mut players = Players::new(10, seed);
            (0..2_000)
                .map(|n| serde_json::to_string(&players.next_event(Micros::from_millis(n))).unwrap())
                .collect::<Vec<_>>()
        };
        let game = play(7);
        assert_eq!(game, play(7));
        assert_ne!(game, play(8));
        for kind in ["session_started", "session_ended", "game_started", "game_ended", "game_won"] {
            assert!(game.iter().any(|e| e.contains(kind)), "{kind}");
        }
    }
}
