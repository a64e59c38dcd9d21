//! Bad input and attackers, through real ports: each row of `docs/abuse.md` with what must happen.

mod edges;
mod matrix;
mod routes;
mod stage;
