//! A leaderboard as the api shows it, page by page to its end.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::bench::load::Connection;
use crate::domain::clock::Micros;

/// How long one page may take.
const ANSWER: Duration = Duration::from_secs(10);

/// One player's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1, by the leaderboard's tie policy.
    pub rank: u64,
    /// Whose.
    pub player: String,
    /// Their score.
    pub score: i64,
    /// When they reached it.
    pub reached_at: Micros,
}

/// Everyone in a period (none: the current one) in the order shown. Who is shown twice, and a total that is not the
/// number of those shown, are errors; the error says what was not right.
pub async fn shown(api: SocketAddr, key: &str, slug: &str, period: Option<i64>) -> Result<Vec<Place>, String> {
    let late = |_| format!("no answer from the api within {ANSWER:?}");
    let open = tokio::time::timeout(ANSWER, Connection::open(api)).await.map_err(late)?;
    let mut connection = open.map_err(|e| e.to_string())?;
    let base = format!("/v1/leaderboards/{slug}/entries?limit=150");
    let base = period.map_or(base.clone(), |period| format!("{base}&period={period}"));
    let (mut path, mut places, mut players) = (base.clone(), Vec::new(), HashSet::new());
    loop {
        let asked = tokio::time::timeout(ANSWER, connection.get(&path, key)).await.map_err(late)?;
        let (status, body) = asked.map_err(|e| e.to_string())?;
        if status != 200 {
            return Err(format!("{status}: {}", String::from_utf8_lossy(body)));
        }
        let page: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        for entry in page["entries"].as_array().into_iter().flatten() {
            let place = place(entry).ok_or_else(|| format!("{entry} is no entry"))?;
            if !players.insert(place.player.clone()) {
                return Err(format!("{entry} is shown a second time"));
            }
            places.push(place);
        }
        let total = page["total"].as_u64();
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("{base}&cursor={cursor}"),
            None if total == Some(places.len() as u64) => return Ok(places),
            None => return Err(format!("{} are shown and the total is {total:?}", places.len())),
        }
    }
}

fn place(entry: &Value) -> Option<Place> {
    Some(Place {
        rank: entry["rank"].as_u64()?,
        player: entry["player_id"].as_str()?.to_owned(),
        score: entry["score"].as_i64()?,
        reached_at: entry["reached_at"].as_str()?.parse::<jiff::Timestamp>().ok()?.into(),
    })
}
