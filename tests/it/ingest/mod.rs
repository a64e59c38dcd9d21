//! The ingest door through a real port and a real Redis.

mod batches;
pub mod door;
mod limits;
mod receipts;
mod refusals;
mod trouble;
