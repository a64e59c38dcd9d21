//! Standings, gathered: while a call about a period of a board is under way, standings that are asked for meanwhile wait
//! for the next call, which answers all of them. A quiet board is asked at once; a busy one costs Redis and this process
//! one call for many requests, and nobody waits longer than for one call before his own.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::connection::{Ranking, RankingError};
use super::read::{BoardPeriod, LookedUp, MAX_LOOKUP, RankedEntry, ReadError, StandingAnswer};

type Answer = Result<StandingAnswer, ReadError>;

/// A player, and who wants to know.
type Question = (String, oneshot::Sender<Answer>);

/// Periods with a call under way, and who waits for the next. Bounded by the requests in hand.
#[derive(Default)]
pub(super) struct Desk(Mutex<HashMap<BoardPeriod, VecDeque<Question>>>);

impl Desk {
    fn lock(&self) -> MutexGuard<'_, HashMap<BoardPeriod, VecDeque<Question>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The questions of the next call, without those that were given up. When there are none the turn ends with this.
    fn take(&self, board: &BoardPeriod) -> Vec<Question> {
        let mut desk = self.lock();
        let mut taken = Vec::new();
        if let Some(waiting) = desk.get_mut(board) {
            while taken.len() < MAX_LOOKUP
                && let Some(question) = waiting.pop_front()
            {
                if !question.1.is_closed() {
                    taken.push(question);
                }
            }
        }
        if taken.is_empty() {
            desk.remove(board);
        }
        taken
    }
}

/// Asks, or waits for the next call.
///
/// # Errors
/// What the call says.
pub(super) async fn standing(ranking: &Ranking, board: &BoardPeriod, player_id: &str) -> Answer {
    let answer = match ranking.desk().lock().entry(*board) {
        Entry::Occupied(mut waiting) => {
            let (asker, answer) = oneshot::channel();
            waiting.get_mut().push_back((player_id.to_owned(), asker));
            Some(answer)
        }
        Entry::Vacant(free) => {
            free.insert(VecDeque::new());
            None
        }
    };
    match answer {
        Some(answer) => answer.await.unwrap_or(Err(ReadError::Unavailable(RankingError::Abandoned))),
        None => {
            let _turn = Turn { ranking: ranking.clone(), board: *board };
            let found = ranking.lookup(board, &[player_id]).await?;
            Ok(standing_of(&found, found.entries.first().map(|(_, entry)| entry)))
        }
    }
}

/// The right to call about a period. Whoever has it gives it to those who waited meanwhile, however its own call ended:
/// the request may have been given up by its client.
struct Turn {
    ranking: Ranking,
    board: BoardPeriod,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let questions = self.ranking.desk().take(&self.board);
        if questions.is_empty() {
            return;
        }
        let next = Self { ranking: self.ranking.clone(), board: self.board };
        // Without a runtime, or on one that stops, both are dropped: whoever waits is told, and the next ones' turn comes.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(next.answer(questions));
        }
    }
}

impl Turn {
    async fn answer(self, questions: Vec<Question>) {
        let players: Vec<&str> = questions.iter().map(|(player_id, _)| player_id.as_str()).collect();
        let found = self.ranking.lookup(&self.board, &players).await;
        let entries = found.iter().flat_map(|found| &found.entries);
        let entry_of: HashMap<&str, &RankedEntry> = entries.map(|(_, entry)| (entry.player_id(), entry)).collect();
        for (player_id, asker) in questions {
            let answer = match &found {
                Ok(found) => Ok(standing_of(found, entry_of.get(player_id.as_str()).copied())),
                Err(error) => Err(error.clone()),
            };
            // Who has gone does not want it.
            let _ = asker.send(answer);
        }
    }
}

fn standing_of(found: &LookedUp, entry: Option<&RankedEntry>) -> StandingAnswer {
    StandingAnswer { version: found.version, total: found.total, published: found.published, entry: entry.cloned() }
}
