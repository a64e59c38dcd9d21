//! What ingest says of one event, and the stable codes it says it with.

/// The verdict on one event of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Queued. It will be stored exactly once.
    Accepted,
    /// A repeat of an earlier event of the same batch.
    Duplicate,
    /// Refused for good; sending it again unchanged is pointless.
    Rejected,
    /// Over a limit; send it again after `retry_after`.
    Retry,
}
