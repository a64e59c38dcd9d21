//! Telling Redis that Postgres is still the one that its boards were made from. Whoever makes a board ready does it,
//! and cron all the time; a database that does not have what Redis was told has gone back, and every board is doubtful.

use crate::ranking::{Ranking, RankingError};
use crate::store::beacons::{self, Beacon};
use crate::store::{Pool, StoreError};

/// How often it is tried again when somebody else told of a beacon at the same time.
const ATTEMPTS: usize = 3;

/// Why it is not known whether Postgres went back.
#[derive(Debug, thiserror::Error)]
pub enum BeaconError {
    /// Redis is away.
    #[error(transparent)]
    Ranking(#[from] RankingError),
    /// Postgres is away.
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

/// Writes a beacon and tells Redis of it, if the last one it was told of stands. If not, nothing is told:
/// cron finds out.
///
/// # Errors
/// [`BeaconError`].
pub async fn attest(pool: &Pool, ranking: &Ranking) -> Result<(), BeaconError> {
    for _ in 0..ATTEMPTS {
        let Some(known) = ranking.beacon().await? else { return Ok(()) };
        let stands = Beacon { sequence: known.sequence, mark: known.mark };
        let Some(Beacon { sequence, mark }) = beacons::write_after(pool, &stands).await? else { return Ok(()) };
        if ranking.tell_beacon(&known, sequence, mark).await? {
            return Ok(());
        }
    }
    Ok(())
}
