//! Facts become entries, entries become boards in Redis (docs/rules.md#standings, docs/rules.md#boards-in-redis).

pub mod arena;
mod audited;
mod crash;
mod folding;
mod held;
mod history;
mod lagging;
mod left_out;
mod many;
mod merging;
mod places;
mod property;
mod reading;
mod rebuilding;
mod refused;
mod roll_out;
mod several;
mod take_over;
mod unpublishable;
mod versions;
