//! One lock order: statements that meet on the same rows take them in one order, and docs/locks.md names them all.

mod first_version;
mod leases;
mod meeting;
mod page;
mod pairs;
