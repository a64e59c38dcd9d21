//! Administration: for studios (a server key: their game) and operators (the admin token: everything).
//!
//! Every change is one transaction with its row in the audit log; then the directory is published.

pub mod audit;
pub mod audit_log;
mod bounds;
pub mod dead_letters;
pub mod games;
pub mod keys;
pub mod leaderboards;
pub mod queues;
pub mod upkeep;
