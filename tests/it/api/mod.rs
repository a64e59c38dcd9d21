//! The api over a real port, with its own Postgres database and Redis.

mod access;
mod admin;
mod audit_log;
mod bounds;
mod cli;
mod damaged;
mod directory;
mod document;
mod dropped;
mod edits;
mod eras;
mod notices;
mod pages;
mod reading;
mod redis_away;
mod replica;
pub mod world;
