//! What an event said when it was sent, and what of all that is stored differs from it.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use uuid::Uuid;

use super::accounts::Account;
use super::boards::StoredEvent;
use crate::domain::clock::Micros;

/// Names that one finding lists.
const NAMED: usize = 5;

/// An event as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its type.
    pub kind: &'static str,
    /// Whose.
    pub player: Box<str>,
    /// When it happened.
    pub occurred_at: Micros,
    /// Its score, all that its payload holds.
    pub score: i64,
}

impl Sent {
    /// The event as a client writes it.
    pub fn event(&self, id: Uuid) -> Value {
        json!({"event_id": id, "type": self.kind, "player_id": self.player,
               "occurred_at": self.occurred_at.to_string(), "payload": {"score": self.score}})
    }

    /// What is stored otherwise than it was sent.
    fn difference(&self, stored: &StoredEvent) -> Option<String> {
        let payload: Value = serde_json::from_str(&stored.payload).unwrap_or_default();
        let same = stored.kind == self.kind
            && *stored.player == *self.player
            && stored.occurred_at == self.occurred_at
            && stored.bare
            && payload == json!({"score": self.score});
        (!same).then(|| format!("{}: sent {self:?}, stored {stored:?}", stored.id))
    }
}

/// Everything acknowledged is stored once, everything else at most once, nothing that nobody sent, and each as it was
/// sent; nothing of `refused` is stored; of `may_lose` anything may lack. What differs.
pub(super) fn differences(
    account: &Account,
    refused: &HashSet<Uuid>,
    may_lose: &HashSet<Uuid>,
    events: &[StoredEvent],
) -> Vec<String> {
    let mut stored = HashSet::with_capacity(events.len());
    let twice: Vec<Uuid> = events.iter().map(|event| event.id).filter(|id| !stored.insert(*id)).collect();
    let lost = account.acknowledged.difference(&stored).filter(|id| !refused.contains(*id) && !may_lose.contains(*id));
    let lost = lost.copied().collect();
    let foreign = stored.difference(&account.sent).copied().collect();
    let refused = stored.intersection(refused).copied().collect();
    let listed = [
        ("acknowledged events are not stored", lost),
        ("events are stored twice", twice),
        ("events are stored that nobody sent", foreign),
        ("events are stored that Postgres refuses", refused),
    ];
    let mut found: Vec<String> = Vec::new();
    for (what, ids) in listed {
        if !ids.is_empty() {
            found.push(format!("{} {what}, for example {:?}", ids.len(), &ids[..ids.len().min(NAMED)]));
        }
    }
    let altered = altered(&account.contents, events);
    if !altered.is_empty() {
        let some = altered[..altered.len().min(NAMED)].join("; ");
        found.push(format!("{} events are not stored as they were sent: {some}", altered.len()));
    }
    found
}

fn altered(contents: &HashMap<Uuid, Sent>, events: &[StoredEvent]) -> Vec<String> {
    events.iter().filter_map(|event| contents.get(&event.id)?.difference(event)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two events of different players, acknowledged, and the rows that they make.
    fn two() -> (Account, Vec<StoredEvent>) {
        let mut account = Account::default();
        let mut events = Vec::new();
        for (n, player) in [(1, "p-1"), (2, "p-2")] {
            let (id, at) = (Uuid::from_u128(n), Micros::from_seconds(n as i64));
            let sent = Sent { kind: "game_ended", player: player.into(), occurred_at: at, score: 10 * n as i64 };
            events.push(StoredEvent {
                id,
                occurred_at: at,
                received_at: at,
                kind: sent.kind.to_owned(),
                player: player.to_owned(),
                score: sent.score,
                payload: format!("{{ \"score\": {} }}", sent.score),
                bare: true,
            });
            account.acknowledged.insert(id);
            account.note(id, sent);
        }
        (account, events)
    }

    fn found(account: &Account, events: &[StoredEvent]) -> String {
        differences(account, &HashSet::new(), &HashSet::new(), events).join("\n")
    }

    #[test]
    fn what_is_stored_as_it_was_sent_does_not_differ() {
        let (mut account, mut events) = two();
        assert_eq!(found(&account, &events), "");
        // What was never acknowledged need not be there.
        account.acknowledged.remove(&events[1].id);
        events.pop();
        assert_eq!(found(&account, &events), "");
    }

    #[test]
    fn only_what_a_fault_named_may_lack() {
        let (account, mut events) = two();
        let gone = events.pop().unwrap().id;
        let none = HashSet::new();
        assert_eq!(differences(&account, &none, &HashSet::from([gone]), &events), Vec::<String>::new());
        let other = HashSet::from([events[0].id]);
        assert!(differences(&account, &none, &other, &events)[0].starts_with("1 acknowledged events are not stored"));
        events.push(events[0].clone());
        let twice = differences(&account, &none, &HashSet::from([gone, events[0].id]), &events);
        assert_eq!(twice.len(), 1, "what may be lost may not be there twice: {twice:?}");
    }

    #[test]
    fn every_field_that_is_not_as_it_was_sent_is_found() {
        type Change = fn(&mut StoredEvent);
        let changes: [Change; 5] = [
            |event| event.kind = "level_progress".to_owned(),
            |event| event.player = "p-2".to_owned(),
            |event| event.occurred_at = Micros(event.occurred_at.0 + 1),
            |event| event.payload = "{\"score\": 11}".to_owned(),
            |event| event.bare = false,
        ];
        for change in changes {
            let (account, mut events) = two();
            change(&mut events[0]);
            let found = found(&account, &events);
            assert!(found.starts_with("1 events are not stored as they were sent"), "{found}");
        }
    }

    #[test]
    fn events_that_are_stored_under_each_others_ids_are_found() {
        let (account, mut events) = two();
        let first = events[0].id;
        events[0].id = events[1].id;
        events[1].id = first;
        assert!(found(&account, &events).starts_with("2 events are not stored as they were sent"));
    }

    #[test]
    fn rows_that_lack_or_are_too_many_are_found() {
        let (account, mut events) = two();
        let mut foreign = events[0].clone();
        foreign.id = Uuid::from_u128(3);
        events[1] = events[0].clone();
        events.push(foreign);
        let found = found(&account, &events);
        for what in
            ["1 acknowledged events are not stored", "1 events are stored twice", "1 events are stored that nobody"]
        {
            assert!(found.contains(what), "{found}");
        }
    }
}
