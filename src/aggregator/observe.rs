//! Measures what waits. Every cron tells the same, whichever of them does the work.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::close_periods::FAILING;
use super::outlook::Outlook;
use super::shards::Shards;
use crate::domain::low_water::Hold;
use crate::store::outbox::Outbox;
use crate::store::{Pool, StoreError, period_closing, under_way};
use crate::telemetry::metrics as names;

/// How often the outboxes are measured.
const OUTBOXES: Duration = Duration::from_secs(2);
/// How often, in rounds of the outboxes, it is counted what keeps periods open.
const ROUNDS: u32 = 5;
/// Dead letters of a game are counted up to here.
const MOST_DEAD_LETTERS: i64 = 10_000;
/// Games that have a series of their own.
const MOST_GAMES: usize = 100;

/// Measures until `stop`.
pub async fn run(pool: &Pool, shards: &Shards, stop: &CancellationToken) {
    let mut told = HashSet::new();
    let (mut rounds, mut outboxes) = (0, Outboxes::default());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(OUTBOXES) => {}
        }
        metrics::gauge!(names::FOLD_SHARDS_HELD, "role" => "cron").set(shards.held().len() as f64);
        if let Err(error) = outboxes.measure(pool).await {
            tracing::debug!(%error, "the outboxes were not measured");
        }
        if rounds % ROUNDS == 0
            && let Err(error) = what_holds_periods(pool, &mut told).await
        {
            tracing::debug!(%error, "what keeps periods open was not measured");
        }
        rounds += 1;
    }
}

/// From where each outbox is looked at.
#[derive(Debug, Default)]
struct Outboxes([Outlook; 2]);

impl Outboxes {
    async fn measure(&mut self, pool: &Pool) -> Result<(), StoreError> {
        let mut connection = pool.acquire().await?;
        for (outbox, outlook) in Outbox::ALL.into_iter().zip(&mut self.0) {
            let waiting = outbox.waiting(&mut connection, outlook.after(Instant::now())).await?;
            outlook.saw(waiting);
            let aside = outbox.aside(&mut connection).await?;
            let gauge = match outbox {
                Outbox::Facts => metrics::gauge!(names::FACTS_WAITING, "role" => "cron"),
                Outbox::Markers => metrics::gauge!(names::MARKERS_WAITING, "role" => "cron"),
            };
            gauge.set((waiting.count + aside) as f64);
        }
        Ok(())
    }
}

/// Periods that are over and wait, and undecided dead letters by game. `told` has the games that were
/// told of last time.
pub async fn what_holds_periods(pool: &Pool, told: &mut HashSet<String>) -> Result<(), StoreError> {
    let over: BTreeMap<String, i64> = period_closing::waiting(&mut *pool.acquire().await?).await?.into_iter().collect();
    for reason in Hold::ALL.map(Hold::code).into_iter().chain([FAILING]) {
        let waiting = over.get(reason).copied().unwrap_or_default();
        metrics::gauge!(names::PERIODS_OVER, "role" => "cron", "reason" => reason).set(waiting as f64);
    }
    let letters = by_game(under_way::count_dead_letters(pool, MOST_DEAD_LETTERS).await?);
    for gone in told.extract_if(|game| !letters.contains_key(game)) {
        metrics::gauge!(names::DEAD_LETTERS_WAITING, "role" => "cron", "game" => gone).set(0.0);
    }
    for (game, count) in letters {
        metrics::gauge!(names::DEAD_LETTERS_WAITING, "role" => "cron", "game" => game.clone()).set(count as f64);
        told.insert(game);
    }
    Ok(())
}

/// The games with the most letters by name, the rest together.
fn by_game(mut counted: Vec<(Option<String>, i64)>) -> BTreeMap<String, i64> {
    counted.sort_by_key(|(game, count)| (game.is_some(), std::cmp::Reverse(*count)));
    let mut letters = BTreeMap::new();
    for (place, (game, count)) in counted.into_iter().enumerate() {
        let name = match game {
            None => "unknown".to_owned(),
            Some(_) if place > MOST_GAMES => "others".to_owned(),
            Some(game) => game,
        };
        *letters.entry(name).or_default() += count;
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_games_have_a_series_and_the_rest_share_one() {
        let counted = (0..103).map(|n| (Some(format!("g{n}")), n)).chain([(None, 5)]);
        let letters = by_game(counted.collect());
        assert_eq!(letters.len(), MOST_GAMES + 2);
        assert_eq!((letters["unknown"], letters["others"], letters["g102"]), (5, 3, 102));
    }
}
