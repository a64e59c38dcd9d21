//! What cron does beside folding: partitions, retention, recomputes, closing, audits and the schedule.

mod audit;
mod beside;
mod builds;
mod closing;
mod cut_rows;
mod edit_races;
mod edits;
mod edits_property;
mod edits_steps;
mod half_folded;
mod lost_boards;
mod months;
mod outboxes;
mod partitions;
mod plans;
mod rebuild_turns;
mod recompute;
mod retention;
mod schedule;
mod stage;
mod tenants;
