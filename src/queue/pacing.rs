//! When a worker asks for jobs, and for how many. Pure but for `Instant`s, which the caller brings.
//!
//! The first fetch after idling is immediate. While busy, fetches start a few milliseconds apart, so that each brings
//! many jobs and these are written together. A full fetch is followed by the next at once.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::retry::RetryPolicy;

/// A fetch gives low-lane jobs the first choice this often.
const LOW_FIRST_EVERY: u32 = 10;
/// How long to leave a Redis alone that did not answer, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long to leave a dependency alone that was down.
const DEPENDENCY: RetryPolicy = RetryPolicy {
    max_attempts: u32::MAX,
    first_delay: Duration::from_millis(100),
    longest_delay: Duration::from_secs(2),
    jitter: 0.2,
};

/// What a worker has in hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub in_hand: usize,
    pub alone: bool,
}

/// A fetch to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub most: usize,
    pub low_first: bool,
    pub suspect: bool,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Fetch(Plan),
    /// Nothing before this time, unless something is announced or settled.
    WaitUntil(Instant),
    /// Nothing before a job was settled.
    WaitForHands,
}

/// What a fetch brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brought {
    pub jobs: usize,
    pub suspects_waiting: usize,
    pub due_in: Option<Duration>,
}

/// The state between fetches.
#[derive(Debug)]
pub(super) struct Pacing {
    max_in_hand: usize,
    most_per_fetch: usize,
    spacing: Duration,
    fetches: u32,
    last_was_suspect: bool,
    suspects_waiting: bool,
    not_before: Option<Instant>,
    idle_until: Option<Instant>,
    paused_until: Option<Instant>,
    failures: u32,
    dependency_streak: u32,
}

impl Pacing {
    pub fn new(max_in_hand: usize, most_per_fetch: usize, spacing: Duration) -> Self {
        Self {
            max_in_hand,
            most_per_fetch,
            spacing,
            fetches: 0,
            last_was_suspect: false,
            suspects_waiting: false,
            not_before: None,
            idle_until: None,
            paused_until: None,
            failures: 0,
            dependency_streak: 0,
        }
    }

    /// What to do at `now`. `announced`: Redis said that there may be jobs.
    pub fn step(&mut self, now: Instant, load: Load, announced: bool) -> Step {
        if announced {
            self.idle_until = None;
        }
        let free = self.max_in_hand.saturating_sub(load.in_hand);
        // A suspect runs alone: first the hands empty, then it comes, and nothing beside it. Every other fetch is an
        // ordinary one, so that suspects and fresh jobs both get on.
        let suspect = self.suspects_waiting && !self.last_was_suspect;
        if load.alone || free == 0 || (suspect && load.in_hand > 0) {
            return Step::WaitForHands;
        }
        let waits = [self.not_before, self.idle_until, self.paused_until];
        if let Some(until) = waits.into_iter().flatten().max().filter(|until| *until > now) {
            return Step::WaitUntil(until);
        }
        self.fetches = self.fetches.wrapping_add(1);
        let low_first = self.fetches.is_multiple_of(LOW_FIRST_EVERY);
        self.not_before = Some(now + self.spacing);
        self.idle_until = None;
        // With empty hands a suspect may come along even when none was known of: they go before fresh jobs once.
        let suspect = load.in_hand == 0 && !self.last_was_suspect;
        Step::Fetch(Plan { most: free.min(self.most_per_fetch), low_first, suspect })
    }

    /// A fetch was served.
    pub fn served(&mut self, now: Instant, plan: Plan, brought: Brought, alone: bool, poll: Duration) {
        self.failures = 0;
        self.suspects_waiting = brought.suspects_waiting > 0;
        self.last_was_suspect = alone;
        if brought.jobs == plan.most && plan.most >= self.most_per_fetch.min(self.max_in_hand / 2) {
            self.not_before = None;
        }
        // After an empty ordinary fetch there is nothing but suspects to wait for: let the next one be theirs.
        if brought.jobs == 0 {
            let idle = if self.suspects_waiting { Duration::ZERO } else { brought.due_in.unwrap_or(poll).min(poll) };
            self.idle_until = Some(now + idle);
        }
    }

    /// Redis did not answer, or did not serve.
    pub fn failed(&mut self, now: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause);
    }

    /// The queue is paused or the worker not registered: looks again after `wait` or when something is announced.
    pub fn idle(&mut self, now: Instant, wait: Duration) {
        self.idle_until = Some(now + wait);
    }

    /// A job met a dependency that was down: takes no more for a while, longer each time. Returns that while.
    pub fn dependency_down(&mut self, now: Instant, random: f64) -> Duration {
        self.dependency_streak = self.dependency_streak.saturating_add(1);
        let pause = DEPENDENCY.pause(self.dependency_streak, random);
        self.paused_until = Some(now + pause);
        pause
    }

    /// A job was done: its dependencies are up.
    pub fn dependency_up(&mut self) {
        self.dependency_streak = 0;
        self.paused_until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACING: Duration = Duration::from_millis(5);
    const POLL: Duration = Duration::from_secs(1);

    fn pacing() -> Pacing {
        Pacing::new(500, 250, SPACING)
    }

    fn load(in_hand: usize) -> Load {
        Load { in_hand, alone: false }
    }

    fn brought(jobs: usize, suspects_waiting: usize) -> Brought {
        Brought { jobs, suspects_waiting, due_in: None }
    }

    fn plan(step: Step) -> Plan {
        match step {
            Step::Fetch(plan) => plan,
            other => panic!("no fetch but {other:?}"),
        }
    }

    #[test]
    fn the_first_fetch_after_idling_is_immediate_and_busy_ones_are_spaced() {
        let (mut p, start) = (pacing(), Instant::now());
        let first = plan(p.step(start, load(0), false));
        p.served(start, first, brought(0, 0), false, POLL);
        assert_eq!(p.step(start, load(0), false), Step::WaitUntil(start + POLL));
        let later = start + Duration::from_millis(100);
        let second = plan(p.step(later, load(0), true));
        p.served(later, second, brought(3, 0), false, POLL);
        assert_eq!(p.step(later, load(3), true), Step::WaitUntil(later + SPACING));
    }

    #[test]
    fn a_full_fetch_is_followed_by_the_next_at_once_until_the_hands_are_full() {
        let (mut p, now) = (pacing(), Instant::now());
        let first = plan(p.step(now, load(0), false));
        assert_eq!(first.most, 250);
        p.served(now, first, brought(250, 0), false, POLL);
        assert_eq!(plan(p.step(now, load(250), false)).most, 250);
        assert_eq!(p.step(now, load(500), false), Step::WaitForHands);
    }

    #[test]
    fn a_tenth_of_the_fetches_takes_low_first() {
        let (mut p, mut now, mut low) = (pacing(), Instant::now(), 0);
        for _ in 0..1_000 {
            let plan = plan(p.step(now, load(0), false));
            low += u32::from(plan.low_first);
            p.served(now, plan, brought(250, 0), false, POLL);
            now += SPACING;
        }
        assert_eq!(low, 100);
    }

    #[test]
    fn a_suspect_waits_for_empty_hands_and_runs_with_nothing_beside_it() {
        let (mut p, now) = (pacing(), Instant::now());
        let first = plan(p.step(now, load(3), false));
        assert!(!first.suspect);
        p.served(now, first, brought(250, 2), false, POLL);
        assert_eq!(p.step(now, load(3), false), Step::WaitForHands);
        let alone = plan(p.step(now + SPACING, load(0), false));
        assert!(alone.suspect);
        p.served(now, alone, brought(1, 1), true, POLL);
        assert_eq!(p.step(now + POLL, Load { in_hand: 1, alone: true }, true), Step::WaitForHands);
        assert!(!plan(p.step(now + POLL, load(0), false)).suspect, "fresh jobs get their turn");
    }

    #[test]
    fn a_dependency_that_is_down_slows_the_worker_until_a_job_is_done() {
        let (mut p, now) = (pacing(), Instant::now());
        let pause = p.dependency_down(now, 0.5);
        assert_eq!(p.step(now, load(0), true), Step::WaitUntil(now + pause));
        assert!(p.dependency_down(now, 0.5) > pause);
        p.dependency_up();
        plan(p.step(now, load(0), true));
    }
}
