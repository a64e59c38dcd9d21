//! Waiting for answers and conditions, and for nothing when the run is told to stop.

use std::time::Duration;

use tokio::time::Instant;

use super::ChaosError;
use super::world::World;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long one look may take.
const LOOKING: Duration = Duration::from_secs(10);

impl World {
    /// Waits for an answer that must come.
    ///
    /// # Errors
    /// What the answer says; [`ChaosError::Setup`] when none comes within `limit`; [`ChaosError::Interrupted`].
    pub async fn answered<T, E: Into<ChaosError>>(
        &self,
        who: &str,
        limit: Duration,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ChaosError> {
        tokio::select! {
            () = self.lifecycle.soft.cancelled() => Err(ChaosError::Interrupted),
            answered = tokio::time::timeout(limit, answer) => match answered {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(ChaosError::Setup(format!("no answer within {limit:?} from {who}"))),
            },
        }
    }

    /// Waits until something holds; a run in which it does not is broken.
    ///
    /// # Errors
    /// [`ChaosError::Setup`] when it does not within `limit`; [`ChaosError::Interrupted`].
    pub async fn until(
        &self,
        what: &str,
        limit: Duration,
        condition: impl AsyncFn(&Self) -> Result<bool, ChaosError>,
    ) -> Result<(), ChaosError> {
        match self.holds_within(limit, condition).await? {
            Some(_) => Ok(()),
            None => Err(ChaosError::Setup(format!("not within {limit:?}: {what}"))),
        }
    }

    /// Waits until something holds; how long that took, or `None` when it does not within `limit`.
    ///
    /// # Errors
    /// What the condition says; [`ChaosError::Interrupted`].
    pub async fn holds_within(
        &self,
        limit: Duration,
        condition: impl AsyncFn(&Self) -> Result<bool, ChaosError>,
    ) -> Result<Option<Duration>, ChaosError> {
        let began = Instant::now();
        loop {
            let holds = tokio::select! {
                () = self.lifecycle.soft.cancelled() => return Err(ChaosError::Interrupted),
                holds = tokio::time::timeout(limit + LOOKING, condition(self)) => holds,
            };
            match holds.ok().transpose()? {
                Some(true) => return Ok(Some(began.elapsed())),
                Some(false) if began.elapsed() <= limit => {}
                _ => return Ok(None),
            }
            self.sleep(LOOK).await?;
        }
    }

    /// Waits.
    ///
    /// # Errors
    /// [`ChaosError::Interrupted`].
    pub async fn sleep(&self, time: Duration) -> Result<(), ChaosError> {
        tokio::select! {
            () = self.lifecycle.soft.cancelled() => Err(ChaosError::Interrupted),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }
}
