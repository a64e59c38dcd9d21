//! What may still bring a game scores that count, and whether a period of it may close.

use std::collections::{BTreeMap, HashMap};

use super::clock::Micros;
use super::ids::GameId;

/// Why a period that is over is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    /// Jobs that wait their turn or run, of whichever game: they move by themselves.
    Queue,
    /// Jobs of the game that failed, were rescued or were given back.
    Jobs,
    /// Facts of the game that are not folded.
    Facts,
    /// Undecided dead letters of the game, or ones that do not tell their game.
    DeadLetters,
    /// Facts of the game that no program here could read.
    SetAsideFacts,
    /// Jobs that do not tell their game.
    UnreadJobs,
}

impl Hold {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Queue, Self::Jobs, Self::Facts, Self::DeadLetters, Self::SetAsideFacts, Self::UnreadJobs];

    /// Its stable name in answers, metrics and `leaderboard_periods`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Jobs => "jobs",
            Self::Facts => "facts",
            Self::DeadLetters => "dead_letters",
            Self::SetAsideFacts => "set_aside_facts",
            Self::UnreadJobs => "unread_jobs",
        }
    }

    /// Whether a period waits for it no longer than `CLOSE_WAIT_SECONDS`: it moves only when a person or another
    /// program does something about it.
    pub const fn is_bounded(self) -> bool {
        matches!(self, Self::DeadLetters | Self::SetAsideFacts | Self::UnreadJobs)
    }
}

/// The oldest of what is under way, by the time of its receipt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Oldest {
    of_all: Option<Micros>,
    of_game: HashMap<GameId, Micros>,
}

/// The oldest of everything that is under way, for each game. What was received before has been counted or decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowWater {
    clock: Micros,
    under_way: BTreeMap<Hold, Oldest>,
}

/// What is to be done with a period that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closing {
    /// It waits for these.
    Waits(Vec<Hold>),
    /// It closes; what of these is counted later is late.
    ClosesOver(Vec<Hold>),
}

impl LowWater {
    /// Nothing is under way; the queue's own clock, which stamps the time of receipt, says `clock`.
    pub fn at(clock: Micros) -> Self {
        Self { clock, under_way: BTreeMap::new() }
    }

    /// Something of this game was received then and is not settled; `None`: it may be any game's.
    pub fn add(&mut self, hold: Hold, game: Option<GameId>, received_at: Micros) {
        let oldest = self.under_way.entry(hold).or_default();
        match game {
            Some(game) => {
                let mark = oldest.of_game.entry(game).or_insert(received_at);
                *mark = received_at.min(*mark);
            }
            None => oldest.of_all = Some(oldest.of_all.map_or(received_at, |mark| received_at.min(mark))),
        }
    }

    /// What may still bring the game scores that were received until then.
    pub fn holds(&self, game: GameId, until: Micros) -> Vec<Hold> {
        // Redis's clock may be behind ours: what it stamps from now on may be in time.
        let unborn = (self.clock <= until).then_some(Hold::Queue);
        let holds = |oldest: &Oldest| {
            let marks = [oldest.of_all, oldest.of_game.get(&game).copied()];
            marks.into_iter().flatten().any(|mark| mark <= until)
        };
        let mut found: Vec<Hold> =
            self.under_way.iter().filter(|(_, oldest)| holds(oldest)).map(|(hold, _)| *hold).chain(unborn).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether a period of the game closes now that counts what is received until `until` and is over since then. What
    /// is bounded is waited for `wait_seconds` longer, by `now` and by the queue's clock; 0: for ever. What closes
    /// stays closed, so a clock that is ahead does not decide alone.
    pub fn closing(&self, game: GameId, until: Micros, now: Micros, wait_seconds: u64) -> Closing {
        let holds = self.holds(game, until);
        let wait = i64::try_from(wait_seconds).unwrap_or(i64::MAX);
        let waited = wait > 0 && now.min(self.clock) > Micros(until.0.saturating_add(wait.saturating_mul(1_000_000)));
        if holds.iter().all(|hold| hold.is_bounded() && waited) {
            Closing::ClosesOver(holds)
        } else {
            Closing::Waits(holds)
        }
    }

    /// The queue's own clock.
    pub fn clock(&self) -> Micros {
        self.clock
    }

    /// The oldest of all that is under way, whosever it is; the queue's clock when nothing is.
    pub fn mark(&self) -> Micros {
        self.oldest().map_or(self.clock, |oldest| oldest.min(self.clock))
    }

    /// The oldest of all that is under way, whosever it is.
    pub fn oldest(&self) -> Option<Micros> {
        self.under_way.values().flat_map(|o| o.of_game.values().copied().chain(o.of_all)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: GameId = GameId(1);
    const TWO: GameId = GameId(2);
    const HOUR: u64 = 3_600;

    fn second(n: i64) -> Micros {
        Micros(n * 1_000_000)
    }

    #[test]
    fn a_games_own_things_hold_its_own_periods_only() {
        for hold in Hold::ALL {
            let mut water = LowWater::at(second(1_000));
            water.add(hold, Some(ONE), second(100));
            assert_eq!(water.closing(ONE, second(100), second(1_000), HOUR), Closing::Waits(vec![hold]));
            assert_eq!(water.closing(ONE, second(99), second(1_000), HOUR), Closing::ClosesOver(vec![]));
            assert_eq!(water.closing(TWO, second(100), second(1_000), HOUR), Closing::ClosesOver(vec![]));
        }
    }

    #[test]
    fn what_names_no_game_holds_every_game() {
        let mut water = LowWater::at(second(1_000));
        water.add(Hold::DeadLetters, None, second(100));
        for game in [ONE, TWO] {
            assert_eq!(water.closing(game, second(100), second(1_000), HOUR), Closing::Waits(vec![Hold::DeadLetters]));
        }
    }

    #[test]
    fn dead_letters_are_waited_for_no_longer_than_the_setting_says() {
        let mut water = LowWater::at(second(100_000));
        water.add(Hold::DeadLetters, Some(ONE), second(100));
        let closing = |now, wait| water.closing(ONE, second(100), second(now), wait);
        assert_eq!(closing(100 + 3_600, HOUR), Closing::Waits(vec![Hold::DeadLetters]));
        assert_eq!(closing(101 + 3_600, HOUR), Closing::ClosesOver(vec![Hold::DeadLetters]));
        assert_eq!(closing(90_000, 0), Closing::Waits(vec![Hold::DeadLetters]), "0 waits for ever");
        assert_eq!(closing(90_000, u64::MAX), Closing::Waits(vec![Hold::DeadLetters]));
    }

    #[test]
    fn a_clock_that_is_ahead_ends_no_wait_alone() {
        let closing = |queue, now| {
            let mut water = LowWater::at(second(queue));
            water.add(Hold::DeadLetters, Some(ONE), second(100));
            water.closing(ONE, second(100), second(now), HOUR)
        };
        let late = 101 + 3_600;
        for (queue, now) in [(late - 1, late), (late, late - 1)] {
            assert_eq!(closing(queue, now), Closing::Waits(vec![Hold::DeadLetters]), "{queue} {now}");
        }
        assert_eq!(closing(late, late), Closing::ClosesOver(vec![Hold::DeadLetters]));
    }

    #[test]
    fn what_moves_by_itself_is_always_waited_for() {
        for hold in [Hold::Queue, Hold::Jobs, Hold::Facts] {
            let mut water = LowWater::at(second(100_000));
            water.add(hold, Some(ONE), second(100));
            water.add(Hold::DeadLetters, Some(ONE), second(100));
            let closing = water.closing(ONE, second(100), second(90_000), HOUR);
            assert_eq!(closing, Closing::Waits(vec![hold, Hold::DeadLetters]));
        }
    }

    #[test]
    fn nothing_closes_before_the_queues_clock_is_past_it() {
        let water = LowWater::at(second(100));
        assert_eq!(water.closing(ONE, second(100), second(1_000), HOUR), Closing::Waits(vec![Hold::Queue]));
        assert_eq!(water.closing(ONE, second(99), second(1_000), HOUR), Closing::ClosesOver(vec![]));
        assert_eq!((water.mark(), water.oldest()), (second(100), None));
    }
}
