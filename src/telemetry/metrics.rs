//! Every metric's name, in one place. Label values come from closed sets only; every metric carries `role`.
//!
//! Hot paths keep the handles that `counter!`, `gauge!` and `histogram!` return instead of looking them up each time.

/// Seconds from a request's headers to its answer. Labels: role, route, status.
pub const HTTP_REQUEST_SECONDS: &str = "scoreline_http_request_seconds";
/// Open connections. Labels: role.
pub const HTTP_CONNECTIONS: &str = "scoreline_http_connections";
/// Verdicts on events. Labels: role, verdict, code.
pub const INGEST_VERDICTS: &str = "scoreline_ingest_verdicts_total";
/// Waiting jobs. Labels: role, lane, state.
pub const QUEUE_DEPTH: &str = "scoreline_queue_depth";
/// Age of the oldest waiting job in seconds. Labels: role, lane.
pub const QUEUE_OLDEST_SECONDS: &str = "scoreline_queue_oldest_seconds";
/// Seconds a job took in its handler. Labels: role, kind.
pub const JOB_SECONDS: &str = "scoreline_job_seconds";
/// How jobs ended. Labels: role, kind, outcome.
pub const JOB_OUTCOMES: &str = "scoreline_job_outcomes_total";
/// Events written. Labels: role.
pub const EVENTS_INSERTED: &str = "scoreline_events_inserted_total";
/// Events that were stored already. Labels: role.
pub const EVENTS_DUPLICATE: &str = "scoreline_events_duplicate_total";
/// Score facts waiting to be folded. Labels: role.
pub const FACTS_WAITING: &str = "scoreline_facts_waiting";
/// Score facts folded. Labels: role.
pub const FACTS_FOLDED: &str = "scoreline_facts_folded_total";
/// Seconds from a score's receipt to its being on the board. Labels: role.
pub const ACCEPT_TO_RANK_SECONDS: &str = "scoreline_accept_to_rank_seconds";
/// Connections of a Postgres pool. Labels: role, pool, state (total, idle, waiting, max).
pub const POOL_CONNECTIONS: &str = "scoreline_pool_connections";
/// What limits refused. Labels: role, limit (requests, guesses, player, game), by (redis, cache, local).
pub const INGEST_LIMITED: &str = "scoreline_ingest_limited_total";
