//! How far a queue is, for each game: what was received before has left it.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::client::{Queue, QueueError};
use super::job_id::parse_id;
use super::keys::Lane;
use super::payload::{HEAD_BYTES, Owner, owner_of};
use super::scripts::{JOB_HEADS, LOW_WATER};
use crate::domain::clock::Micros;
use crate::domain::low_water::{Hold, LowWater};

/// Most ids of one list in one look. What stands behind them holds every game, for a bounded time.
const MOST_IDS: usize = 10_000;
/// Jobs whose first bytes are asked for in one call.
const HEADS_PER_CALL: usize = 200;
/// Most bytes of these jobs together, unless one has more: Redis copies them, and answers nobody else meanwhile.
const BYTES_PER_CALL: usize = 512 << 10;
/// Jobs whose first bytes are asked for in one look; those that are not reached hold every game until the next look.
const HEADS_PER_LOOK: usize = 2_000;

/// Looks of one question, each at workers that came or went meanwhile.
const MOST_LOOKS: usize = 10;

type Answer = (u8, String, String, Vec<String>, Vec<String>);

struct Look {
    heads: [String; 2],
    troubled: Vec<String>,
    held: Vec<String>,
}

/// The first look that saw every hand. A worker that signs on between the two questions of a look may hold what was
/// counted in no place: it is looked again.
async fn complete<T, F>(mut look: impl FnMut() -> F) -> Result<T, QueueError>
where
    F: Future<Output = Result<Option<T>, QueueError>>,
{
    for _ in 0..MOST_LOOKS {
        if let Some(found) = look().await? {
            return Ok(found);
        }
    }
    Err(QueueError::WorkersChange)
}

impl Queue {
    /// What is under way of jobs that were received until `until`, and the stamp that the queue had before it was
    /// asked: no job passes it any more.
    ///
    /// Lanes' heads and jobs in hand move by themselves and hold every game. A job that failed, was rescued or given
    /// back holds its own game, until it is settled or its dead letter is in Postgres.
    ///
    /// # Errors
    /// Redis cannot be reached, or workers come and go without a pause: the next question finds out.
    pub async fn low_water(&self, until: Micros) -> Result<LowWater, QueueError> {
        // Asked first, so that nothing comes in between.
        let stamp = self.stamp(Micros(self.known.stamp.load(Ordering::Relaxed))).await?;
        self.known.stamp.fetch_max(stamp.0, Ordering::Relaxed);
        let look = complete(|| self.look(until)).await?;
        let mut water = LowWater::at(stamp);
        let received = |id: &str| parse_id(id).map(|parts| parts.received_at);
        let troubled: HashSet<&str> = look.troubled.iter().map(String::as_str).collect();
        let in_hand = look.held.iter().map(String::as_str).filter(|id| !troubled.contains(id));
        for moment in look.heads.iter().map(String::as_str).chain(in_hand).filter_map(received) {
            water.add(Hold::Queue, None, moment);
        }
        let owners = self.owners(&look.troubled).await?;
        for id in &look.troubled {
            let Some(moment) = received(id) else { continue };
            match owners.get(id) {
                Some(Some(Owner::Game(game))) => water.add(Hold::Jobs, Some(*game), moment),
                // Settled since it was listed: what it carried are facts now, and they are asked for later.
                Some(None) | Some(Some(Owner::NoEvents)) => {}
                Some(Some(Owner::Unknown)) | None => water.add(Hold::UnreadJobs, None, moment),
            }
        }
        if look.troubled.len() >= MOST_IDS
            && let Some(moment) = look.troubled.last().and_then(|id| received(id))
        {
            water.add(Hold::UnreadJobs, None, moment);
        }
        Ok(water)
    }

    async fn look(&self, until: Micros) -> Result<Option<Look>, QueueError> {
        let keys = self.keys();
        let mut connection = self.connection().clone();
        let workers: Vec<String> = redis::cmd("HKEYS").arg(keys.workers()).query_async(&mut connection).await?;
        let mut all = vec![keys.workers(), keys.lane(Lane::High), keys.lane(Lane::Low), keys.troubled_at()];
        all.extend(workers.iter().map(|w| keys.held(w)));
        let until = if until == Micros(i64::MAX) { "+inf".to_owned() } else { until.0.to_string() };
        let call = LOW_WATER.keys(all).arg(until).arg(MOST_IDS).arg("").arg(&workers);
        let (complete, high, low, troubled, held): Answer = call.run(&mut connection).await?;
        Ok((complete == 1).then_some(Look { heads: [high, low], troubled, held }))
    }

    /// Whose these jobs are, as far as it is known after a bounded number of questions.
    async fn owners(&self, ids: &[String]) -> Result<HashMap<String, Option<Owner>>, QueueError> {
        let mut known = std::mem::take(&mut *self.known.owners.lock().unwrap_or_else(PoisonError::into_inner));
        let listed: HashSet<&String> = ids.iter().collect();
        known.retain(|id, owner| owner.is_some() && listed.contains(id));
        let asked: Vec<&String> = ids.iter().filter(|id| !known.contains_key(*id)).collect();
        let mut connection = self.connection().clone();
        let mut asked = &asked[..asked.len().min(HEADS_PER_LOOK)];
        while !asked.is_empty() {
            let some = &asked[..asked.len().min(HEADS_PER_CALL)];
            let call = JOB_HEADS.keys([self.keys().jobs()]).arg(HEAD_BYTES).arg(BYTES_PER_CALL).arg(some);
            let heads: Vec<Option<Vec<u8>>> = call.run(&mut connection).await?;
            let owners = heads.iter().map(|head| head.as_deref().map(owner_of));
            known.extend(some.iter().map(|id| (*id).clone()).zip(owners));
            asked = &asked[heads.len().clamp(1, some.len())..];
        }
        self.known.owners.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&known);
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn workers_that_come_and_go_do_not_keep_a_question_for_ever() {
        let mut looks = 0;
        let mut nth = |complete: usize| {
            looks += 1;
            std::future::ready(Ok((looks == complete).then_some(looks)))
        };
        assert_eq!(complete(|| nth(3)).await.unwrap(), 3);
        assert!(matches!(complete(|| nth(0)).await, Err(QueueError::WorkersChange)));
        assert_eq!(looks, 3 + MOST_LOOKS);
    }
}
