//! Which quotas a request must ask Redis about, and what to remember of the answer.

use super::known::{GameLimits, Limits, Remaining};
use crate::domain::ids::GameId;
use crate::domain::rate::{HeldCount, WINDOW_MS};
use crate::queue::enqueue::{Counted, QuotaCount, QuotaSubject};

/// The events of one player in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group<'a> {
    /// Whose.
    pub player: &'a str,
    /// The table's name for the player.
    key: u64,
    /// How many.
    pub events: u32,
    /// Too few lately to be worth remembering: what the sieve counted, these events included.
    light: Option<u32>,
}

/// One request's quotas.
#[derive(Debug)]
pub struct Plan<'a, 'l> {
    limits: &'l Limits,
    game: GameId,
    of_game: GameLimits,
    now_ms: i64,
    groups: Vec<Group<'a>>,
    events: u32,
    /// What Redis is asked.
    asked: Vec<QuotaCount<'a>>,
    /// Which group each of `asked` is; `None`: the game.
    asked_groups: Vec<Option<usize>>,
}

impl<'a, 'l> Plan<'a, 'l> {
    /// Decides about a batch, given the player of each event that is to be queued.
    pub fn new(
        limits: &'l Limits,
        game: GameId,
        of_game: GameLimits,
        players: impl Iterator<Item = &'a str>,
        now_ms: i64,
    ) -> Self {
        let mut plan = Self {
            limits,
            game,
            of_game,
            now_ms,
            groups: Vec::new(),
            events: 0,
            asked: Vec::new(),
            asked_groups: Vec::new(),
        };
        if of_game.player_events == 0 {
            plan.events = u32::try_from(players.count()).unwrap_or(u32::MAX);
        } else {
            plan.group(players);
        }
        plan.ask();
        plan
    }

    fn group(&mut self, players: impl Iterator<Item = &'a str>) {
        let mut all: Vec<Group<'a>> = Vec::new();
        for player in players {
            self.events += 1;
            // Mostly one player per batch, and neighbours are alike.
            match all.last_mut() {
                Some(last) if last.player == player => last.events += 1,
                _ => {
                    all.push(Group { player, key: self.limits.player_key(self.game, player).1, events: 1, light: None })
                }
            }
        }
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key).then_with(|| a.player.cmp(b.player)));
        all.dedup_by(|next, kept| {
            let same = next.player == kept.player;
            if same {
                kept.events += next.events;
            }
            same
        });
        self.groups = all;
    }

    fn ask(&mut self) {
        let limit = self.of_game.player_events;
        for (index, group) in self.groups.iter_mut().enumerate() {
            let key = (self.game, group.key);
            // As long as what a player sent may be held back anyway, nothing needs to be known of them. Small limits
            // are exact: there everyone is asked about.
            let before = self.limits.sieve.add(group.key, group.events, self.now_ms);
            let lately = before.saturating_add(group.events);
            let known = self.limits.players.has(&key);
            if !known && lately < limit / 20 {
                group.light = Some(lately);
                continue;
            }
            let due = self.limits.players.update(key, self.now_ms, |held| {
                if !known && limit >= 20 {
                    // What passed the sieve before counts as held back.
                    held.hold(before.min(limit / 20), self.now_ms);
                }
                held.take_due(group.events, limit, self.now_ms)
            });
            // No room to remember the player: ask each time.
            if let Some(held) = due.unwrap_or(Some(0)) {
                let subject = QuotaSubject::Player(group.player);
                self.asked.push(QuotaCount { subject, limit, held, new: group.events });
                self.asked_groups.push(Some(index));
            }
        }
        let limit = self.of_game.game_events;
        if limit > 0 && self.events > 0 {
            let due =
                self.limits.games.update(self.game, self.now_ms, |held| held.take_due(self.events, limit, self.now_ms));
            if let Some(held) = due.unwrap_or(Some(0)) {
                self.asked.push(QuotaCount { subject: QuotaSubject::Game, limit, held, new: self.events });
                self.asked_groups.push(None);
            }
        }
    }

    /// What Redis is asked.
    pub fn asked(&self) -> &[QuotaCount<'a>] {
        &self.asked
    }

    /// The call did not count anything: gives back what was taken out.
    pub fn give_back(&self) {
        for (quota, group) in self.asked.iter().zip(&self.asked_groups) {
            if quota.held > 0 {
                self.remember(*group, |count| count.hold(quota.held, self.now_ms));
            }
        }
    }

    /// The call counted: remembers what Redis knows, and what it was not told. The tightest of these limits.
    pub fn done(&self, counted: &[Counted]) -> Option<Remaining> {
        let mut tightest: Option<Remaining> = None;
        let mut note = |remaining: Remaining| {
            tightest = Some(tightest.map_or(remaining, |t| t.tighter(remaining)));
        };
        for (index, group) in self.groups.iter().enumerate() {
            if let Some(used) = group.light {
                let limit = self.of_game.player_events;
                let left = limit.saturating_sub(used);
                note(Remaining { name: "player", limit, left, reset_ms: WINDOW_MS.unsigned_abs() });
                continue;
            }
            let answer = self.answer_for(Some(index), counted);
            if let Some(count) = self.settle(Some(index), group.events, answer) {
                note(self.remaining("player", self.of_game.player_events, count));
            }
        }
        if self.of_game.game_events > 0 && self.events > 0 {
            let answer = self.answer_for(None, counted);
            if let Some(count) = self.settle(None, self.events, answer) {
                note(self.remaining("game", self.of_game.game_events, count));
            }
        }
        tightest
    }

    fn remaining(&self, name: &'static str, limit: u32, count: HeldCount) -> Remaining {
        let left = limit.saturating_sub(count.used(self.now_ms));
        let reset_ms = u64::try_from(count.reset_ms(self.now_ms)).unwrap_or(0);
        Remaining { name, limit, left, reset_ms }
    }

    fn answer_for(&self, group: Option<usize>, counted: &[Counted]) -> Option<Counted> {
        let at = self.asked_groups.iter().position(|g| *g == group)?;
        counted.get(at).copied()
    }

    fn settle(&self, group: Option<usize>, events: u32, answer: Option<Counted>) -> Option<HeldCount> {
        self.remember(group, |count| {
            match answer {
                Some(counted) => count.synchronise(counted.amount, counted.reset_ms, self.now_ms),
                None => count.hold(events, self.now_ms),
            }
            *count
        })
    }

    fn remember<T>(&self, group: Option<usize>, change: impl FnOnce(&mut HeldCount) -> T) -> Option<T> {
        match group {
            Some(index) => self.limits.players.update((self.game, self.groups[index].key), self.now_ms, change),
            None => self.limits.games.update(self.game, self.now_ms, change),
        }
    }
}
