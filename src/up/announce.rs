//! What `up` prints for people.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is what the command has to say")]

use std::path::Path;
use std::process::ExitCode;

use super::endpoints::Endpoints;

/// Everything runs.
pub fn running(at: &Endpoints, home: &Path) {
    println!(
        "
Scoreline is up.

  ingest       {ingest}
  api          {api}            documentation: {api}/docs
  operations   ingest {ops_ingest}  api {ops_api}  worker {ops_worker}  cron {ops_cron}
  data         {home} (addresses and keys for scripts: endpoints.json)

  game         {game}, leaderboards global, weekly, wins
  client key   {client}
  server key   {server}
  admin token  {admin}

Try it: post a score, then look at the top of the board.

  curl -s {ingest}/v1/events -H 'Authorization: Bearer {client}' -H 'Content-Type: application/json' \\
    -d '[{{\"event_id\":\"'$(cat /proc/sys/kernel/random/uuid)'\",\"occurred_at\":\"'$(date -u +%FT%TZ)'\",\"type\":\"game_ended\",\"player_id\":\"you\",\"payload\":{{\"score\":9999}}}}]'
  curl -s '{api}/v1/leaderboards/global/entries?limit=10' -H 'Authorization: Bearer {client}'

Ctrl-C stops everything that was started here.
",
        ingest = at.ingest,
        api = at.api,
        ops_ingest = at.ops.ingest,
        ops_api = at.ops.api,
        ops_worker = at.ops.worker,
        ops_cron = at.ops.cron,
        home = home.display(),
        game = at.game,
        client = at.client_key,
        server = at.server_key,
        admin = at.admin_token,
    );
}

/// Asked to stop.
pub fn stopping() {
    println!("Stopping what was started.");
}

/// It did not work.
pub fn failure(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {}", crate::telemetry::redaction::redact(&error.to_string()));
    ExitCode::from(2)
}
