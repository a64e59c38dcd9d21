//! When a worker asks for jobs, and for how many. Pure but for `Instant`s, which the caller brings.
//!
//! The first fetch after idling is immediate. While busy, fetches start a few milliseconds apart, so that each brings
//! many jobs and these are written together. A full fetch is followed by the next at once.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::retry::RetryPolicy;

/// A fetch gives low-lane jobs the first choice this often.
const LOW_FIRST_EVERY: u32 = 10;
/// So many suspects run in a row before fresh jobs get a turn, and so many fresh ones at most come in between: after a
/// crash hundreds of suspects must get on, few together, and a fresh job must still start within a tenth of a second.
const SUSPECTS_IN_A_ROW: u32 = 10;
const FRESH_BETWEEN_SUSPECTS: usize = 50;
/// So many jobs that were set aside are in hand at once, and at most a tenth of what may be. Each may fail again, in
/// transactions of its own. Twice as many after each that is done, for then what held them is mended.
const SET_ASIDE_IN_HAND: usize = 25;
/// No fetch while so much is in hand.
const MOST_BYTES: usize = 64 << 20;
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
    pub bytes: usize,
    /// Suspects run: nothing comes beside them.
    pub suspects: bool,
    /// Jobs that were set aside before.
    pub set_aside: usize,
}

/// A fetch to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub most: usize,
    pub low_first: bool,
    pub suspect: bool,
    /// Most jobs that were set aside.
    pub set_aside: usize,
    /// They have the first choice this time, otherwise the last.
    pub set_aside_first: bool,
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
    /// Less than that after fetches without an answer: over a slow link many large jobs do not arrive in time.
    arrives: usize,
    spacing: Duration,
    fetches: u32,
    suspects_in_a_row: u32,
    suspects_waiting: bool,
    not_before: Option<Instant>,
    idle_until: Option<Instant>,
    /// When the first job is due that this worker itself delayed: an idle worker looks then.
    due_at: Option<Instant>,
    paused_until: Option<Instant>,
    failures: u32,
    dependency_streak: u32,
    /// Most jobs in hand that were set aside before.
    set_aside: usize,
}

impl Pacing {
    pub fn new(max_in_hand: usize, most_per_fetch: usize, spacing: Duration) -> Self {
        Self {
            max_in_hand,
            most_per_fetch,
            arrives: most_per_fetch,
            spacing,
            fetches: 0,
            suspects_in_a_row: 0,
            suspects_waiting: false,
            not_before: None,
            idle_until: None,
            due_at: None,
            paused_until: None,
            failures: 0,
            dependency_streak: 0,
            set_aside: few_set_aside(max_in_hand),
        }
    }

    /// What to do at `now`. `announced`: Redis said that there may be jobs.
    pub fn step(&mut self, now: Instant, load: Load, announced: bool) -> Step {
        if announced {
            self.idle_until = None;
        }
        let free = if load.bytes < MOST_BYTES { self.max_in_hand.saturating_sub(load.in_hand) } else { 0 };
        // Suspects run apart: first the hands empty, then a few come, and nothing beside them.
        let suspects_turn = self.suspects_in_a_row < SUSPECTS_IN_A_ROW;
        if load.suspects || free == 0 || (self.suspects_waiting && suspects_turn && load.in_hand > 0) {
            return Step::WaitForHands;
        }
        let idle_until = self.idle_until.map(|until| self.due_at.map_or(until, |due| until.min(due)));
        let waits = [self.not_before, idle_until, self.paused_until];
        if let Some(until) = waits.into_iter().flatten().max().filter(|until| *until > now) {
            return Step::WaitUntil(until);
        }
        self.fetches = self.fetches.wrapping_add(1);
        let low_first = self.fetches.is_multiple_of(LOW_FIRST_EVERY);
        self.not_before = Some(now + self.spacing);
        self.idle_until = None;
        self.due_at = self.due_at.filter(|due| *due > now);
        let most = if self.suspects_waiting { FRESH_BETWEEN_SUSPECTS } else { usize::MAX };
        let most = most.min(free).min(self.arrives);
        // With empty hands a suspect may come that was not known of.
        Step::Fetch(Plan {
            most,
            low_first,
            suspect: load.in_hand == 0 && suspects_turn,
            set_aside: self.set_aside.saturating_sub(load.set_aside),
            set_aside_first: self.fetches.is_multiple_of(2),
        })
    }

    /// A fetch was served.
    pub fn served(&mut self, now: Instant, plan: Plan, brought: Brought, suspects: bool, poll: Duration) {
        self.failures = 0;
        self.suspects_waiting = brought.suspects_waiting > 0;
        self.suspects_in_a_row = if suspects { self.suspects_in_a_row + 1 } else { 0 };
        // Spacing lets jobs gather that are written together; suspects come together or not at all.
        let full = brought.jobs == plan.most && plan.most >= self.arrives.min(self.max_in_hand / 2);
        if brought.jobs >= self.arrives {
            self.arrives = (self.arrives * 2).min(self.most_per_fetch);
        }
        if full || suspects || self.suspects_waiting {
            self.not_before = None;
        }
        if brought.jobs == 0 {
            let idle = if self.suspects_waiting { Duration::ZERO } else { brought.due_in.unwrap_or(poll).min(poll) };
            self.idle_until = Some(now + idle);
        }
    }

    /// Redis did not answer, or not in full.
    pub fn failed(&mut self, now: Instant, plan: Plan) {
        self.arrives = (plan.most.min(self.arrives) / 2).max(1);
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause);
    }

    /// The queue is paused or the worker not registered: looks again after `wait` or when something is announced.
    pub fn idle(&mut self, now: Instant, wait: Duration) {
        self.idle_until = Some(now + wait);
    }

    /// A job was delayed until `at`.
    pub fn delayed(&mut self, at: Instant) {
        self.due_at = Some(self.due_at.map_or(at, |due| due.min(at)));
    }

    /// A job that had been set aside was done.
    pub fn set_aside_no_more(&mut self) {
        self.set_aside = (self.set_aside * 2).min((self.max_in_hand / 2).max(1));
    }

    /// A job was set aside again.
    pub fn set_aside_again(&mut self) {
        self.set_aside = few_set_aside(self.max_in_hand);
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

fn few_set_aside(max_in_hand: usize) -> usize {
    (max_in_hand / 10).clamp(1, SET_ASIDE_IN_HAND)
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
        Load { in_hand, bytes: 0, suspects: false, set_aside: 0 }
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
    fn an_idle_worker_looks_when_a_job_that_it_delayed_is_due() {
        let (mut p, now) = (pacing(), Instant::now());
        let first = plan(p.step(now, load(0), false));
        let due = now + Duration::from_millis(70);
        p.delayed(due);
        p.served(now, first, brought(0, 0), false, POLL);
        assert_eq!(p.step(now, load(0), false), Step::WaitUntil(due));
        plan(p.step(due, load(0), false));
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
    fn what_does_not_arrive_is_asked_for_in_smaller_fetches_that_grow_again() {
        let (mut p, mut now, mut sizes) = (pacing(), Instant::now(), Vec::new());
        for _ in 0..10 {
            let asked = plan(p.step(now, load(0), false));
            sizes.push(asked.most);
            p.failed(now, asked);
            now += LONGEST_PAUSE;
        }
        assert_eq!(sizes, [250, 125, 62, 31, 15, 7, 3, 1, 1, 1]);
        let grown = [0, 250, 250, 3, 250, 250, 250, 250, 250, 250, 250, 250].map(|jobs| {
            let asked = plan(p.step(now, load(0), true));
            p.served(now, asked, brought(jobs.min(asked.most), 0), false, POLL);
            now += POLL;
            asked.most
        });
        let reason = "a fetch that was not full says nothing of larger ones";
        assert_eq!(grown, [1, 1, 2, 4, 4, 8, 16, 32, 64, 128, 250, 250], "{reason}");
    }

    #[test]
    fn hands_are_full_of_bytes_too() {
        let (mut p, now) = (pacing(), Instant::now());
        let large = |bytes| Load { bytes, ..load(3) };
        assert_eq!(p.step(now, large(MOST_BYTES), true), Step::WaitForHands);
        plan(p.step(now, large(MOST_BYTES - 1), true));
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
    fn suspects_wait_for_empty_hands_and_run_with_nothing_beside_them() {
        let (mut p, now) = (pacing(), Instant::now());
        let first = plan(p.step(now, load(3), false));
        assert!(!first.suspect);
        p.served(now, first, brought(250, 2), false, POLL);
        assert_eq!(p.step(now, load(3), false), Step::WaitForHands);
        let few = plan(p.step(now + SPACING, load(0), false));
        assert!(few.suspect);
        p.served(now, few, brought(2, 0), true, POLL);
        assert_eq!(p.step(now + POLL, Load { suspects: true, ..load(1) }, true), Step::WaitForHands);
    }

    #[test]
    fn fresh_jobs_get_their_turn_among_hundreds_of_suspects() {
        let (mut p, now) = (pacing(), Instant::now());
        let first = plan(p.step(now, load(0), false));
        p.served(now, first, brought(1, 300), true, POLL);
        let (mut suspects, mut fresh) = (1, 0);
        for _ in 0..100 {
            let plan = plan(p.step(now, load(0), false)); // at once: spacing is for what is written together
            suspects += u32::from(plan.suspect);
            fresh += u32::from(!plan.suspect);
            assert!(plan.suspect || plan.most == FRESH_BETWEEN_SUSPECTS);
            p.served(now, plan, brought(if plan.suspect { 1 } else { plan.most }, 300), plan.suspect, POLL);
        }
        assert_eq!((suspects, fresh), (92, 9));
    }

    #[test]
    fn few_that_were_set_aside_are_in_hand_until_one_is_done() {
        let (mut p, mut now) = (pacing(), Instant::now());
        let mut asks = |p: &mut Pacing, set_aside| {
            now += POLL;
            plan(p.step(now, Load { set_aside, ..load(100) }, true)).set_aside
        };
        assert_eq!([0, 20, 25, 200].map(|held| asks(&mut p, held)), [25, 5, 0, 0]);
        p.set_aside_no_more();
        p.set_aside_no_more();
        assert_eq!(asks(&mut p, 30), 70);
        for _ in 0..9 {
            p.set_aside_no_more();
        }
        assert_eq!(asks(&mut p, 0), 250);
        p.set_aside_again();
        assert_eq!(asks(&mut p, 0), 25);
        assert_eq!([1, 4, 40, 1_000].map(few_set_aside), [1, 1, 4, 25]);
    }

    #[test]
    fn what_was_set_aside_has_the_first_choice_every_second_time() {
        let (mut p, mut now, mut first) = (pacing(), Instant::now(), 0);
        for _ in 0..10 {
            now += POLL;
            first += u32::from(plan(p.step(now, load(0), true)).set_aside_first);
        }
        assert_eq!(first, 5);
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
