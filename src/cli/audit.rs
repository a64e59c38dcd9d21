//! `scoreline audit`.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use clap::Args;

use super::With;
use super::boards::Which;
use super::reach::{Answer, Failed, Failure};
use super::table::table;
use crate::services::audit::entries::{Difference, EntriesAudit, Values};
use crate::services::audit::{BoardAudit, audit_board};
use crate::store::definitions::{self, Definitions};

/// What to audit.
#[derive(Args, Debug, Clone)]
pub struct Audit {
    #[command(flatten)]
    which: Which,
    /// Compare Redis with the entries only, and do not read the stored events.
    #[arg(long)]
    redis_only: bool,
}

/// Runs `scoreline audit`: every entry in Redis against Postgres, both ways (what differs is repaired), and every entry
/// in Postgres against the stored events (what differs is reported and never touched).
pub async fn audit(with: With<Audit>) -> Result<Answer, Failure> {
    let (pool, ranking) = (with.reach.pool()?, with.reach.ranking()?);
    let found = with.what.which.find(&with.reach, &pool).await?;
    let definitions = definitions::load(&mut *pool.acquire().await?).await?;
    definitions.tell_unreadable(&Definitions::default());
    // Whoever interrupts the command ends the process; nothing is left half done by that.
    let stop = CancellationToken::new();
    let (mut audits, mut skipped, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
    let mut failed = Failed::default();
    for (_, name, stored) in found {
        let Some(board) = stored.live.and_then(|live| definitions.boards.get(&live)) else {
            skipped.push(name);
            continue;
        };
        let audited = audit_board(&pool, &ranking, board, !with.what.redis_only, "cli", &stop).await;
        let Some(audited) = failed.or(&name, audited)? else { continue };
        if audited.replaced {
            replaced.push(name);
        } else {
            audits.push((name, audited));
        }
    }
    // Of those that failed nothing is known.
    let clean = failed.is_empty() && audits.iter().all(|(_, audit)| audit.is_clean());
    let all: Vec<_> = audits.iter().map(|(name, audit)| as_json(name, audit)).collect();
    let value = json!({ "clean": clean, "leaderboards": all, "not_live_yet": skipped, "replaced": replaced });
    let answer = Answer::new(&value, as_text(&audits, &skipped, &replaced, clean));
    Ok(if clean { answer } else { answer.not_as_it_should_be() }.unless(&failed))
}

fn as_json(name: &str, audit: &BoardAudit) -> serde_json::Value {
    json!({ "leaderboard": name, "clean": audit.is_clean(), "generation": audit.generation, "redis": audit.redis,
            "events": audit.events })
}

fn as_text(audits: &[(String, BoardAudit)], skipped: &[String], replaced: &[String], clean: bool) -> String {
    let rows: Vec<[String; 7]> = audits
        .iter()
        .map(|(name, audit)| {
            let (redis, events) = (&audit.redis, audit.events.as_ref());
            let of_events =
                |count: fn(&EntriesAudit) -> u64| events.map_or("-".to_owned(), |events| count(events).to_string());
            [
                name.clone(),
                redis.compared.to_string(),
                redis.missing.to_string(),
                redis.different.to_string(),
                redis.extra.to_string(),
                of_events(|events| events.computed),
                of_events(|events| events.differing),
            ]
        })
        .collect();
    let heading = [
        "LEADERBOARD",
        "ENTRIES",
        "NOT IN REDIS",
        "OTHER IN REDIS",
        "TOO MANY IN REDIS",
        "COMPUTED",
        "NOT AS EVENTS SAY",
    ];
    let mut text = table(heading, &rows, "no leaderboards to audit");
    for (name, audit) in audits {
        if audit.redis.repaired {
            text.push_str(&format!("\n{name}: Redis differed and was rebuilt from the entries in Postgres"));
        }
        for difference in audit.events.iter().flat_map(|events| &events.differences) {
            text.push_str(&format!("\n{name}: {}", described(difference)));
        }
    }
    for (name, audit) in audits.iter().filter(|(_, audit)| audit.redis.undecided > 0) {
        let count = audit.redis.undecided;
        text.push_str(&format!("\n{name}: {count} entries were not judged; their publication is still on its way"));
    }
    for name in replaced {
        text.push_str(&format!("\n{name}: not audited; an edit or a recompute took its place meanwhile"));
    }
    for name in skipped {
        text.push_str(&format!("\n{name}: not audited; it is computed for the first time"));
    }
    if !audits.is_empty() {
        let verdict = if clean { "\nclean" } else { "\nNOT CLEAN" };
        text.push_str(verdict);
    }
    text
}

fn described(difference: &Difference) -> String {
    let values = |values: &Option<Values>| {
        values.as_ref().map_or("no entry".to_owned(), |v| format!("score {} after {} plays", v.score, v.plays))
    };
    let Difference { period_start, period_end, player_id, computed, stored } = difference;
    let until = period_end.map_or(String::new(), |end| format!(" to {end}"));
    format!(
        "player '{player_id}' in the period from {period_start}{until}: stored {}, but the events say {}",
        values(stored),
        values(computed)
    )
}
