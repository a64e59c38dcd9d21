//! The ingest door through a real port and a real Redis.

mod batches;
mod cluster;
pub mod door;
mod fairness;
mod limits;
mod receipts;
mod refusals;
mod trouble;
