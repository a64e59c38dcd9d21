//! Bad input and attackers, through real ports: each row of `docs/abuse.md` with what must happen.

mod addresses;
mod bombs;
mod edges;
mod fuzz;
mod matrix;
mod measure;
mod planted;
mod routes;
mod schema;
mod secrets;
mod shown;
mod slow;
mod stage;
mod unread;
