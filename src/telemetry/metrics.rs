//! Every metric's name, in one place. Label values come from closed sets only; every metric carries `role`.
//!
//! Hot paths keep the handles that `counter!`, `gauge!` and `histogram!` return instead of looking them up each time.

/// Seconds from a request's headers to its answer. Labels: role, route, status.
pub const HTTP_REQUEST_SECONDS: &str = "scoreline_http_request_seconds";
/// Open connections. Labels: role.
pub const HTTP_CONNECTIONS: &str = "scoreline_http_connections";
/// Verdicts on events. Labels: role, verdict, code.
pub const INGEST_VERDICTS: &str = "scoreline_ingest_verdicts_total";
/// Jobs in the queue, told by every worker and cron. Labels: role, lane (high, low; any where jobs of both are counted
/// together), state (waiting in a lane; suspect, delayed, held and dead in any).
pub const QUEUE_DEPTH: &str = "scoreline_queue_depth";
/// Games with a job that is set aside because it fails while others succeed, told by every worker and
/// cron. Labels: role.
pub const QUEUE_BLOCKED_GAMES: &str = "scoreline_queue_blocked_games";
/// Age of the oldest waiting job in seconds, told by every worker and cron. Labels: role, lane.
pub const QUEUE_OLDEST_SECONDS: &str = "scoreline_queue_oldest_seconds";
/// Seconds a job took in its handler. Labels: role, kind.
pub const JOB_SECONDS: &str = "scoreline_job_seconds";
/// How jobs ended. Labels: role, kind, outcome (done, transient, blocked, retry, fail).
pub const JOB_OUTCOMES: &str = "scoreline_job_outcomes_total";
/// Calls that asked the queue for jobs. Labels: role, outcome (jobs, empty, error).
pub const QUEUE_FETCHES: &str = "scoreline_queue_fetches_total";
/// Jobs taken out of dead workers' hands. Labels: role.
pub const QUEUE_RESCUED: &str = "scoreline_queue_rescued_total";
/// Jobs in this worker's hands. Labels: role.
pub const QUEUE_IN_HAND: &str = "scoreline_queue_in_hand";
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
/// Score facts that came too late for their period. Labels: role.
pub const FACTS_LATE: &str = "scoreline_facts_late_total";
/// Rows of facts that no program version here can read, put aside. Labels: role.
pub const FACTS_SET_ASIDE: &str = "scoreline_facts_set_aside_total";
/// Leaderboards that a newer program defined: what counts for them is kept for one that can read them. Labels: role.
pub const UNREADABLE_LEADERBOARDS: &str = "scoreline_unreadable_leaderboards";
/// Times that Postgres turned out to have gone back in time (restored, or promoted without its last
/// commits). Labels: role.
pub const POSTGRES_WENT_BACK: &str = "scoreline_postgres_went_back_total";
/// Seconds that one fold took, from its begin to its commit. Labels: role.
pub const FOLD_SECONDS: &str = "scoreline_fold_seconds";
/// Folds that did not commit. Labels: role.
pub const FOLD_FAILURES: &str = "scoreline_fold_failures_total";
/// Fold shards that this process holds. Labels: role.
pub const FOLD_SHARDS_HELD: &str = "scoreline_fold_shards_held";
/// Seconds from a fold's commit to its publication. Labels: role.
pub const PUBLISH_LAG_SECONDS: &str = "scoreline_publish_lag_seconds";
/// Folds that Redis has not been told yet. Labels: role.
pub const MARKERS_WAITING: &str = "scoreline_markers_waiting";
/// Rebuilds of leaderboards in Redis. Labels: role, outcome (done, failed).
pub const REBUILDS: &str = "scoreline_rebuilds_total";
/// Connections of a Postgres pool. Labels: role, pool, state (total, idle, waiting, max).
pub const POOL_CONNECTIONS: &str = "scoreline_pool_connections";
/// Connections to Postgres that were closed because a statement was not answered in time. Labels: role.
pub const POSTGRES_OVERDUE: &str = "scoreline_postgres_overdue_total";
/// Connections to Postgres that came back to their pool inside of a transaction or with other limits. Labels: role.
pub const POSTGRES_UNFIT: &str = "scoreline_postgres_unfit_total";
/// Connections refused at a cap. Labels: role, reason (listener, address).
pub const HTTP_CONNECTIONS_REFUSED: &str = "scoreline_http_connections_refused_total";
/// Seconds that a scheduled job took. Labels: role, job.
pub const SCHEDULED_SECONDS: &str = "scoreline_scheduled_seconds";
/// Runs of scheduled jobs. Labels: role, job, outcome (done, failed, panicked).
pub const SCHEDULED_RUNS: &str = "scoreline_scheduled_runs_total";
/// When a scheduled job last succeeded, in seconds since the Unix epoch. Labels: role, job.
pub const SCHEDULED_LAST_SUCCESS: &str = "scoreline_scheduled_last_success_seconds";
/// Periods that are over for half a minute and not closed, by the first thing that each waits for. Labels: role, reason
/// (queue, jobs, facts, dead_letters, set_aside_facts, unread_jobs, failing).
pub const PERIODS_OVER: &str = "scoreline_periods_over";
/// Leaderboards that are to be recomputed, as this process saw it last. Labels: role, state (under_way: here; waiting:
/// for their turn).
pub const RECOMPUTES: &str = "scoreline_recomputes";
/// Months of events past retention that the last look left, as the process that looked saw it. Labels: role, reason
/// (clock, jobs, recompute, unreadable).
pub const MONTHS_KEPT: &str = "scoreline_months_kept";
/// Undecided dead letters, counted up to 10,000 of a game. Labels: role, game (a slug; `unknown` where a letter does
/// not tell, `others` beyond the hundred games that have the most).
pub const DEAD_LETTERS_WAITING: &str = "scoreline_dead_letters_waiting";
/// Entries that an audit found different in Redis from Postgres, and repaired. Labels: role.
pub const AUDIT_DRIFT: &str = "scoreline_audit_drift_total";
/// What limits refused. Labels: role, limit (requests, guesses, player, game, share: of the queue, receipts: of a game
/// by keys of one kind, receipts_of_all), by (redis, cache, local).
pub const INGEST_LIMITED: &str = "scoreline_ingest_limited_total";
/// What limits of the api refused. Labels: role, limit (public_reads; changes_at_once: no place came free in time; and
/// of what one game may have or change: leaderboards, leaderboards_of_type, definition_bytes, keys, changes,
/// recomputes).
pub const API_LIMITED: &str = "scoreline_api_limited_total";
/// Reads of history that went to the primary because the replica did not answer. Labels: role.
pub const READ_REPLICA_FALLBACKS: &str = "scoreline_read_replica_fallbacks_total";
/// Log lines that were left out because nobody read them in time. Labels: role.
pub const LOG_LINES_LEFT_OUT: &str = "scoreline_log_lines_left_out_total";
