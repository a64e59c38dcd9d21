//! The rules of Scoreline, without I/O: identities, events, definitions, scores, periods, ranking keys, limits
//! and retries. Nothing here reads a clock, a random source, a socket or a file; time and randomness are
//! parameters (ARCHITECTURE.md#invariants), so every rule can be tested by example and by property.

pub mod board;
pub mod board_text;
pub mod board_version;
pub mod byte_reader;
pub mod clock;
pub mod directory;
pub mod entry;
pub mod event;
pub mod fact;
pub mod game_bounds;
pub mod ids;
pub mod json;
pub mod json_words;
pub mod keys;
pub mod low_water;
pub mod month;
pub mod name;
pub mod packed_facts;
pub mod payload_check;
pub mod period;
pub mod ranking_key;
pub mod rate;
pub mod retry;
pub mod rfc3339;
pub mod score;
pub mod server_versions;
pub mod verdict;
pub mod width;
