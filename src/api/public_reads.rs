//! What readers without a key may cost. Pages from the cache and standings from Redis are cheap; what asks Postgres (an
//! archived period, `include=`, the list of periods) is counted by address, because anybody may ask with a new number
//! each time, and the pipeline shares that Postgres.

use axum::http::StatusCode;

use super::problem::Problem;
use crate::domain::rate::{WINDOW_MS, WindowCount};
use crate::http::bounded_table::BoundedTable;
use crate::http::client_address::ClientAddress;
use crate::telemetry::metrics::API_LIMITED;

/// Addresses that are remembered. A table full of live entries refuses nobody new.
const MAX_ADDRESSES: usize = 100_000;

/// Reads that asked Postgres, by address.
#[derive(Debug)]
pub struct PublicReads {
    limit: u32,
    counts: BoundedTable<ClientAddress, WindowCount>,
}

impl PublicReads {
    /// At most `limit` a minute and address; 0: any number.
    pub fn new(limit: u32) -> Self {
        Self { limit, counts: BoundedTable::new(MAX_ADDRESSES) }
    }

    /// Counts one that is about to ask Postgres.
    ///
    /// # Errors
    /// `429 too_many_reads`.
    pub fn count(&self, address: ClientAddress, now_ms: i64) -> Result<(), Problem> {
        if self.limit == 0
            || self.counts.update(address, now_ms, |count| count.count(self.limit, now_ms)) != Some(false)
        {
            return Ok(());
        }
        metrics::counter!(API_LIMITED, "role" => "api", "limit" => "public_reads").increment(1);
        let detail = "Too many reads without a key that no cache answers came from this address; wait, or use a key.";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_reads", detail);
        Err(problem.retry_after((WINDOW_MS / 1_000) as u32).with("limit", self.limit))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn an_address_that_reads_too_much_waits_and_others_do_not() {
        let reads = PublicReads::new(3);
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|text| ClientAddress::from(text.parse::<IpAddr>().unwrap()));
        let admitted = |address, now| reads.count(address, now).is_ok();
        assert_eq!([1, 2, 3, 4].map(|now| admitted(a, now)), [true, true, true, false]);
        assert!(admitted(b, 4) && admitted(a, 1 + WINDOW_MS));
        let unlimited = PublicReads::new(0);
        assert!((0..1_000).all(|now| unlimited.count(a, now).is_ok()));
    }
}
