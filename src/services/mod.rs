//! What the api, the command line and cron share: work on Postgres and Redis together that one of them asks for.
//!
//! * [`audit`] compares what players see with what the events say, and repairs Redis;
//! * [`board_rebuild`] makes a whole board in Redis from its entries;
//! * [`beacon`] tells Redis that Postgres is still the one that its boards were made from;
//! * [`directory_publication`] makes the directory in Redis what Postgres has;
//! * [`games`], [`keys`] and [`leaderboards`] change what a game has, for an [`author`] and within the game's bounds;
//! * [`queues`] and [`dead_letters`] are what operators do with jobs.
//!
//! A service takes domain types and says what became of the work. It writes the audit log. Words for clients and people
//! are its callers' own.

pub mod audit;
pub mod author;
pub mod beacon;
pub mod board_rebuild;
pub mod dead_letters;
pub mod directory_publication;
pub mod games;
pub mod keys;
pub mod leaderboards;
pub mod queues;
