//! Questions about players of one period, gathered: while a call is under way, what is asked meanwhile waits for the
//! next call, which answers as much of it as one call may. A quiet board is asked at once; a busy one costs Redis and
//! this process one call for many requests.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::error::{RankingError, ReadError};

/// What can be asked for many players in one call.
pub(super) trait Question: Copy + Eq + Hash + Send + Sync + 'static {
    /// The answer for one player.
    type Answer: Send + 'static;

    /// Most players of one call; with few of them waiting would cost more than it saves, so let it be dozens or 1.
    fn most(&self) -> usize;
}

/// Who can ask a kind of question in Redis.
pub(super) trait Asks<Q: Question>: Clone + Send + Sync + 'static {
    /// Where those wait who ask this.
    fn desk(&self) -> &Desk<Q>;

    /// Asks Redis; the answers are in the players' order.
    fn ask(&self, question: &Q, players: &[&str]) -> impl Future<Output = Result<Vec<Q::Answer>, ReadError>> + Send;
}

type Answer<Q> = Result<<Q as Question>::Answer, ReadError>;

/// A player, and who wants to know.
type Asker<Q> = (String, oneshot::Sender<Answer<Q>>);

/// Questions with a call under way, and who waits for the next. Bounded by the requests in hand.
pub(super) struct Desk<Q: Question>(Mutex<HashMap<Q, VecDeque<Asker<Q>>>>);

impl<Q: Question> Default for Desk<Q> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Q: Question> Desk<Q> {
    fn lock(&self) -> MutexGuard<'_, HashMap<Q, VecDeque<Asker<Q>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is answered by the next call, without those who gave up. When there are none the turn ends with this.
    fn take(&self, question: &Q) -> Vec<Asker<Q>> {
        let mut desk = self.lock();
        let mut taken = Vec::new();
        if let Some(waiting) = desk.get_mut(question) {
            while taken.len() < question.most()
                && let Some(asker) = waiting.pop_front()
            {
                if !asker.1.is_closed() {
                    taken.push(asker);
                }
            }
        }
        if taken.is_empty() {
            desk.remove(question);
        }
        taken
    }
}

/// Asks, or waits for the next call.
///
/// # Errors
/// What the call says.
pub(super) async fn ask<R: Asks<Q>, Q: Question>(ranking: &R, question: Q, player_id: &str) -> Answer<Q> {
    if question.most() == 1 {
        return alone(ranking, question, player_id).await;
    }
    let answer = match ranking.desk().lock().entry(question) {
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
            let _turn = Turn { ranking: ranking.clone(), question };
            alone(ranking, question, player_id).await
        }
    }
}

async fn alone<R: Asks<Q>, Q: Question>(ranking: &R, question: Q, player_id: &str) -> Answer<Q> {
    let mut answers = ranking.ask(&question, &[player_id]).await?;
    answers.pop().ok_or(ReadError::Unavailable(RankingError::Abandoned))
}

/// The right to call. Whoever has it gives it to those who waited meanwhile, however its own call ended: the request
/// may have been given up by its client.
struct Turn<R: Asks<Q>, Q: Question> {
    ranking: R,
    question: Q,
}

impl<R: Asks<Q>, Q: Question> Drop for Turn<R, Q> {
    fn drop(&mut self) {
        let askers = self.ranking.desk().take(&self.question);
        if askers.is_empty() {
            return;
        }
        let next = Self { ranking: self.ranking.clone(), question: self.question };
        // Without a runtime, or on one that stops, both are dropped: whoever waits is told, and the next
        // ones' turn comes.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(next.answer(askers));
        }
    }
}

impl<R: Asks<Q>, Q: Question> Turn<R, Q> {
    async fn answer(self, askers: Vec<Asker<Q>>) {
        let players: Vec<&str> = askers.iter().map(|(player_id, _)| player_id.as_str()).collect();
        // Who has gone does not want his answer: sending it fails, and that is all.
        match self.ranking.ask(&self.question, &players).await {
            Ok(answers) => {
                askers.into_iter().zip(answers).for_each(|((_, asker), answer)| drop(asker.send(Ok(answer))))
            }
            Err(error) => askers.into_iter().for_each(|(_, asker)| drop(asker.send(Err(error.clone())))),
        }
    }
}
