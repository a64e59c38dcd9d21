//! Scoreline: event batches in, exactly-once leaderboards out.
//!
//! The folders in the order in which an event meets them:
//!
//! 1. [`ingest`] limits, validates, enqueues and answers;
//! 2. [`queue`] holds jobs in Redis and hands them to workers;
//! 3. [`workers`] run jobs: `persist-events` writes events and score facts to Postgres;
//! 4. [`aggregator`] (the `cron` binary) folds facts into entries and publishes leaderboards;
//! 5. [`ranking`] is the only code that knows leaderboard keys in Redis;
//! 6. [`api`] reads, for players, studios and operators.
//!
//! Beside them: [`domain`] has the rules without I/O, [`store`] the only SQL, [`directory`] what ingest and api know
//! of games and keys, [`services`] the work that api, command line and cron share, [`http`] the listener both doors
//! share, [`redis_connection`] the one way to reach Redis, [`runtime`] signals and the clock, [`process`] the settings,
//! the start, the health and the metrics of every process, [`stack`] private Postgres and Redis, [`up`] everything in
//! one process, [`simulate`] a game that plays, [`bench`] and [`chaos`] what measures and what breaks it.
//! `ARCHITECTURE.md` lists the invariants and which way imports may point.

pub mod aggregator;
pub mod api;
pub mod bench;
pub mod chaos;
pub mod cli;
pub mod directory;
pub mod domain;
pub mod http;
pub mod ingest;
pub mod process;
pub mod program;
pub mod queue;
pub mod ranking;
pub mod redis_connection;
pub mod runtime;
pub mod services;
pub mod simulate;
pub mod stack;
pub mod store;
pub mod telemetry;
pub mod up;
pub mod workers;

/// Many small allocations, made on one thread and freed on another, are what each role does per request and per job;
/// `docs/performance.md` has what this allocator saves there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
