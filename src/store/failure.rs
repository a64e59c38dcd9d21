//! What a Postgres error means for the work that met it (fine print 12).

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Postgres is away, restarting, full, or two transactions met: the same work may succeed later.
    Transient,
    /// A row with this key is stored already (`23505`).
    UniqueViolation,
    /// The month's partition does not exist: make it and try again. Never the data's fault.
    NoPartition,
    /// A value that Postgres will never take: the work is at fault.
    Data,
    /// Anything else: a defect in a statement or the schema. Worth a few attempts, not endless ones.
    Other,
}

/// Classifies an error by its SQLSTATE.
pub fn classify(error: &sqlx::Error) -> Failure {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Failure::Transient,
            _ => Failure::Other,
        };
    };
    let code = database.code().unwrap_or_default();
    match &*code {
        "23505" => Failure::UniqueViolation,
        // A row that no partition takes fails like a CHECK, but names no constraint.
        "23514" if database.constraint().is_none() => Failure::NoPartition,
        "23514" => Failure::Data,
        // lock_timeout; idle_in_transaction_session_timeout.
        "55P03" | "25P03" => Failure::Transient,
        code => match code.get(..2) {
            Some("08" | "40" | "53" | "57") => Failure::Transient,
            Some("22") => Failure::Data,
            _ => Failure::Other,
        },
    }
}
