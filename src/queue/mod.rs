//! The job queue on Redis, driven by apalis workers. `docs/job-lifecycle.md` draws a job's states, `docs/redis-keys.md`
//! lists the keys, `docs/adr/0001-our-own-persistence.md` says why this is not apalis-redis.
//!
//! Read in this order: [`keys`], `scripts/`, [`client`], `job_id`, `settlement`, `trouble`, `worker_state`, [`settle`],
//! `delivery`, `fetch`, `backend`, `lease`, [`worker`]. No file uses one that stands behind it.

mod backend;
pub mod blocked;
pub mod client;
mod dead;
mod delivery;
pub mod enqueue;
mod fetch;
mod hands;
mod job_id;
pub mod keys;
mod lease;
mod low_water;
mod meters;
pub mod observe;
mod pacing;
pub mod payload;
mod scripts;
pub mod server;
pub mod settings;
pub mod settle;
mod settlement;
pub mod status;
mod trouble;
mod wake;
pub mod worker;
mod worker_options;
mod worker_state;

pub use self::client::{Queue, QueueError};
pub use self::dead::DeadJob;
pub use self::delivery::Delivery;
pub use self::job_id::JobId;
pub use self::keys::{Keys, Lane};
pub use self::settle::Settler;
pub use self::settlement::Settlement;
pub use self::worker::{JobRunner, run_worker};
pub use self::worker_options::WorkerOptions;
pub use crate::redis_connection::{Connection, Timeouts};
