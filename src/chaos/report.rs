//! What a run came to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// How soon something went on again.
#[derive(Debug, Clone, Serialize)]
pub struct Recovery {
    /// After which fault.
    pub after: &'static str,
    /// What went on.
    pub what: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// What is promised; `null`: nothing.
    pub promised: Option<f64>,
}

/// Events of the run.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Events {
    /// Good ones that clients sent.
    pub sent: usize,
    /// Those answered `202`.
    pub acknowledged: usize,
    /// Those that were never acknowledged.
    pub unanswered: usize,
    /// Those of the unanswered that are stored.
    pub stored_unanswered: usize,
    /// Rows in Postgres.
    pub stored: usize,
    /// Acknowledged ones that Postgres refuses, as arranged.
    pub deserved_dead: usize,
    /// Those that a fault took away, by name.
    pub may_lose: usize,
    /// Those of them that were acknowledged and are not stored.
    pub lost: usize,
}

/// Requests of the run.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Requests {
    /// Sent.
    pub sent: u64,
    /// Without an answer.
    pub unanswered: u64,
    /// Refused with `503`.
    pub refused: u64,
    /// Reads of a leaderboard that were answered.
    pub reads: u64,
}

/// What a run came to.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How to run it again.
    pub replay: String,
    /// How long the run was to take.
    pub minutes: f64,
    /// What kind of build ran.
    pub build: &'static str,
    /// When it played.
    pub scenario: &'static str,
    /// Events.
    pub events: Events,
    /// Requests.
    pub requests: Requests,
    /// `kill -9`, by role.
    pub kills: BTreeMap<&'static str, u64>,
    /// Processes that died at a crash point, by point.
    pub crashes: BTreeMap<&'static str, u64>,
    /// Faults whose conditions were not there, by kind, and crash points that were not reached in time, by point.
    pub not_reached: BTreeMap<&'static str, u64>,
    /// Starts of a process or a service after the first.
    pub restarts: u64,
    /// Connections cut, by how.
    pub cuts: BTreeMap<&'static str, u64>,
    /// Changes of a live leaderboard.
    pub edits: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Kinds that this build cannot do.
    pub skipped: Vec<&'static str>,
    /// Every measured recovery.
    pub recoveries: Vec<Recovery>,
    /// Whether the end was compared with the accounts; otherwise nothing below says that all is well.
    pub judged: bool,
    /// Why the run could not go on.
    pub error: Option<String>,
    /// What was not as promised.
    pub violations: Vec<String>,
    /// Where the logs are, when they were kept.
    pub logs: Option<PathBuf>,
    /// How long the run took.
    pub took_seconds: f64,
}

impl Report {
    /// Notes a recovery and whether it kept what is promised.
    pub fn recovered(&mut self, after: &'static str, what: &'static str, took: Duration, promised: Option<Duration>) {
        if let Some(bound) = promised.filter(|bound| took > *bound) {
            self.violations.push(format!("after {after}: {what} only after {took:.1?}; {bound:.0?} are promised"));
        }
        let promised = promised.map(|bound| bound.as_secs_f64());
        self.recoveries.push(Recovery { after, what, seconds: took.as_secs_f64(), promised });
    }

    /// Notes something that was not as promised.
    pub fn violated(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    /// The worst recovery after each kind of fault.
    fn worst(&self) -> BTreeMap<(&'static str, &'static str), (f64, usize, Option<f64>)> {
        let mut worst = BTreeMap::new();
        for r in &self.recoveries {
            let entry = worst.entry((r.what, r.after)).or_insert((0.0_f64, 0, r.promised));
            entry.0 = entry.0.max(r.seconds);
            entry.1 += 1;
        }
        worst
    }

    /// For people.
    pub fn table(&self) -> String {
        let counts = |map: &BTreeMap<&'static str, u64>| {
            let all: Vec<String> = map.iter().map(|(name, count)| format!("{name} {count}")).collect();
            if all.is_empty() { "none".to_owned() } else { all.join(", ") }
        };
        let Events { sent, acknowledged, unanswered, stored_unanswered, stored, deserved_dead, may_lose, lost } =
            self.events;
        let mut text = format!(
            "seed {}, {:.0} s, {} build, plays {}\n\
             events    {sent} sent, {acknowledged} acknowledged, {unanswered} never acknowledged (of these \
             {stored_unanswered} stored), {stored} stored, {deserved_dead} given up as they deserve, {lost} lost of {may_lose} that faults \
             took away\n\
             requests  {} sent, {} unanswered, {} refused; {} reads\n\
             faults    {}\nkills     {}\ncrashes   {}\nrestarts  {}\ncuts      {}\nedits     {}\n",
            self.seed,
            self.took_seconds,
            self.build,
            self.scenario,
            self.requests.sent,
            self.requests.unanswered,
            self.requests.refused,
            self.requests.reads,
            counts(&self.faults),
            counts(&self.kills),
            counts(&self.crashes),
            self.restarts,
            counts(&self.cuts),
            self.edits,
        );
        if !self.not_reached.is_empty() {
            text.push_str(&format!("not done  {}\n", counts(&self.not_reached)));
        }
        if !self.skipped.is_empty() {
            text.push_str(&format!(
                "skipped   {} (it takes a build with the feature `failpoints`, a disk that can be mounted)\n",
                self.skipped.join(", ")
            ));
        }
        text.push_str(&format!(
            "\n{:<28} {:<24} {:>6} {:>8} {:>9}\n",
            "WHAT WENT ON", "AFTER", "TIMES", "WORST", "PROMISED"
        ));
        for ((what, after), (seconds, times, promised)) in self.worst() {
            let promised = promised.map_or("-".to_owned(), |bound| format!("{bound:.0} s"));
            text.push_str(&format!("{what:<28} {after:<24} {times:>6} {seconds:>6.2} s {promised:>9}\n"));
        }
        for violation in &self.violations {
            text.push_str(&format!("\nNOT AS PROMISED: {violation}"));
        }
        if !self.judged {
            let why = self.error.as_deref().unwrap_or("the run did not come to its end");
            text.push_str(&format!("\nNOT COMPARED: {why}"));
        } else if self.violations.is_empty() {
            text.push_str("\nnothing differs");
        }
        if let Some(logs) = &self.logs {
            text.push_str(&format!("\nlogs: {}\nagain: {}", logs.display(), self.replay));
        }
        text.push('\n');
        text
    }
}
