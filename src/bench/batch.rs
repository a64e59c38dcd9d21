//! Bodies of batches for measuring: the size and mix that `performance.md`'s figures speak of.

use rand::Rng;
use rand::rngs::SmallRng;
use uuid::Uuid;

use crate::domain::clock::Micros;
use crate::simulate::players;

/// What batches hold.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Events in a batch.
    pub events: usize,
    /// Of 100 events, how many carry a score (`game_ended`); the rest are `level_progress`.
    pub scoring_percent: u32,
    /// Players to choose from.
    pub players: u32,
}

impl Mix {
    /// The type of events that carry a score.
    pub const SCORING: &'static str = "game_ended";
}

impl Default for Mix {
    fn default() -> Self {
        Self { events: 20, scoring_percent: 25, players: 1_000_000 }
    }
}

/// Writes one batch of about 340 bytes an event, all at `now`, into `body` (cleared first). Returns how many
/// carry a score.
pub fn write(body: &mut Vec<u8>, mix: &Mix, now: Micros, random: &mut SmallRng) -> u64 {
    body.clear();
    body.push(b'[');
    let occurred_at = now.to_string();
    let mut scores = 0;
    for i in 0..mix.events {
        if i > 0 {
            body.push(b',');
        }
        scores += u64::from(event(body, mix, event_id(now, random), &occurred_at, random));
    }
    body.push(b']');
    scores
}

/// A UUIDv7 of `now`.
pub fn event_id(now: Micros, random: &mut SmallRng) -> Uuid {
    let mut bytes = [0u8; 10];
    random.fill(&mut bytes);
    uuid::Builder::from_unix_timestamp_millis((now.0 / 1_000).max(0).cast_unsigned(), &bytes).into_uuid()
}

const PAYLOAD_TAIL: &[u8] =
    b",\"mode\":\"ranked\",\"map\":\"harbour-night\",\"duration_ms\":183221,\"kills\":11,\"deaths\":4,\
      \"items\":[\"rope\",\"lamp\",\"map\"],\"build\":\"1.14.2\",\"platform\":\"android\"}";

fn event(body: &mut Vec<u8>, mix: &Mix, id: Uuid, occurred_at: &str, random: &mut SmallRng) -> bool {
    let mut buffer = Uuid::encode_buffer();
    let mut number = itoa::Buffer::new();
    let player = random.random_range(0..mix.players.max(1));
    let scoring = random.random_range(0..100) < mix.scoring_percent;
    body.extend_from_slice(b"{\"event_id\":\"");
    body.extend_from_slice(id.hyphenated().encode_lower(&mut buffer).as_bytes());
    body.extend_from_slice(b"\",\"type\":\"");
    body.extend_from_slice(if scoring { Mix::SCORING.as_bytes() } else { b"level_progress" });
    body.extend_from_slice(b"\",\"player_id\":\"");
    body.extend_from_slice(players::name(player as usize).as_bytes());
    body.extend_from_slice(b"\",\"occurred_at\":\"");
    body.extend_from_slice(occurred_at.as_bytes());
    body.extend_from_slice(b"\",\"session_id\":\"s-");
    body.extend_from_slice(number.format(player / 7).as_bytes());
    body.extend_from_slice(b"\",\"schema_version\":1,\"payload\":");
    write_payload(body, random);
    body.push(b'}');
    scoring
}

fn write_payload(body: &mut Vec<u8>, random: &mut SmallRng) {
    body.extend_from_slice(b"{\"score\":");
    body.extend_from_slice(itoa::Buffer::new().format(random.random_range(0..1_000_000u32)).as_bytes());
    body.extend_from_slice(PAYLOAD_TAIL);
}

/// The payload of a scoring event.
pub fn payload(random: &mut SmallRng) -> String {
    let mut payload = Vec::new();
    write_payload(&mut payload, random);
    String::from_utf8_lossy(&payload).into_owned()
}
