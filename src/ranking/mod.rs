//! Leaderboards in Redis: exact, disposable, and known to no other code (keys: `docs/redis-keys.md`).
//!
//! A period is a sorted set in which every score is 0 and the member is the sort key of an entry
//! (`domain/ranking_key.rs`), so Redis keeps the exact order of the tuple; and a hash from player to
//! `<entry version>:<place>`. Every answer is one script call, so it is of one moment, and so is every part of a
//! publication. Whoever changes the live board moves its version: `publish_many` relies on it.
//!
//! * [`read`](Ranking::page): pages, standings, around, lookup, for the api;
//! * [`held`](Ranking::held): entries by version, for whoever compares them with Postgres;
//! * [`publish`](Ranking::publish): what a fold changed, guarded by entry versions;
//! * [`rebuild`](Ranking::begin_rebuild): a whole board, written aside and swapped in;
//! * [`lost`](Ranking::search_boards): boards that no database knows;
//! * [`beacon`](Ranking::beacon): whether the database is still the one that the boards were made from.

mod around;
mod beacon;
mod connection;
mod error;
mod gather;
mod held;
mod key;
mod lost;
mod publish;
mod publish_many;
mod questions;
mod read;
mod rebuild;
pub mod subscription;
mod target;

pub use beacon::ToldBeacon;
pub use connection::Ranking;
pub use error::{RankingError, ReadError};
pub use held::{Held, HeldEntry};
pub use key::SortKey;
pub use lost::SeenBoard;
pub use publish::{PublishOutcome, most_calls};
pub use questions::{BoardPeriod, Direction, LookedUp, Page, RankedEntry, StandingAnswer};
pub use read::next_rank;
pub use rebuild::{BoardStatus, RebuildError, RebuildToken, Still};
pub use target::PublishedEntry;
