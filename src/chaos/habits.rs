//! How clients of a run behave.

use std::time::Duration;

use crate::domain::clock::{Clock, Micros};
use crate::runtime::clock;

/// What clients send and how they behave.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Most good events in a batch.
    pub events: usize,
    /// Whether batches are of any length up to that, or all of it.
    pub any_length: bool,
    /// Players of the game.
    pub players: u32,
    /// What the clients take for the time.
    pub clock: Clock,
    /// Other moments at which events happened, each within what ingest accepts.
    pub moments: Vec<Micros>,
    /// How long a client waits for an answer.
    pub patience: Duration,
    /// Share of requests for whose answer a client does not wait long enough.
    pub impatient: f64,
    /// Share of batches that are never sent again when one was not answered.
    pub gives_up: f64,
    /// Share of batches that are sent twice at once.
    pub at_once: f64,
    /// Pause between two batches: leaves the system time for everything else.
    pub pause: Duration,
}

impl Habits {
    /// Clients that never give up: `events` good ones in each batch, all of now.
    pub fn steady(events: usize) -> Self {
        Self {
            events,
            any_length: false,
            players: 500,
            clock: clock::system(),
            moments: Vec::new(),
            patience: Duration::from_secs(5),
            impatient: 0.0,
            gives_up: 0.0,
            at_once: 0.0,
            pause: Duration::from_millis(5),
        }
    }
}
