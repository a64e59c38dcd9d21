//! What a Postgres error means for the work that met it: whose fault it is. The one place that knows SQLSTATEs.
//!
//! Only what is *known* to be the data's fault counts against the data. Everything else waits and costs nobody an
//! attempt: a state of the server or of its rights is nobody's fault, and neither is an error that nobody foresaw.

/// What Postgres answered instead of a result, or what went wrong on the way to it. Every function of the store may
/// return it; what a caller needs to know beyond this stands under the function's `# Errors`.
///
/// [`classify`] says whose fault it is, and with that whether to repeat, to send less or to give up. A transaction in
/// which it came can only be rolled back. When the connection broke it is open whether the last statement, or the
/// COMMIT, took effect: so everything that writes must be safe to repeat.
///
/// Its own text is for the log: Postgres quotes data. [`in_words`] is what others may read.
pub type StoreError = sqlx::Error;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The server or the way to it: away, restarting, full, read-only, two transactions met. The same work may succeed
    /// later.
    Server,
    /// A row with this key is stored already (`23505`).
    UniqueViolation,
    /// The month's partition does not exist: make it and try again. Never the data's fault.
    NoPartition,
    /// It took longer than a statement or a transaction may (`57014`, `25P04`): less at once may pass.
    TooMuch,
    /// A value that Postgres will never take: the work is at fault.
    Data,
    /// Not known to be anybody's fault. Whether it is the server's shows when another write is tried.
    Unknown,
}

/// Classifies an error by its SQLSTATE.
pub fn classify(error: &StoreError) -> Failure {
    match error {
        StoreError::Database(database) => {
            of_code(&database.code().unwrap_or_default(), database.constraint().is_some())
        }
        StoreError::Io(_)
        | StoreError::Tls(_)
        | StoreError::Protocol(_)
        | StoreError::Configuration(_)
        | StoreError::PoolTimedOut
        | StoreError::PoolClosed
        | StoreError::WorkerCrashed
        | StoreError::BeginFailed => Failure::Server,
        _ => Failure::Unknown,
    }
}

/// Whether the error means that this server takes no writes now (`25006`): after a fail-over an old connection still
/// leads to the server that was demoted, so such a connection must not be used again.
pub fn is_read_only(error: &StoreError) -> bool {
    error.as_database_error().and_then(|database| database.code()).as_deref() == Some("25006")
}

/// Whether Postgres says that the rows which it was given are at fault (classes 21, 22 and 23). A right that is
/// withdrawn, a table that is missing and whatever else fails says nothing of any row, also where other work goes on.
pub fn is_of_the_rows(error: &StoreError) -> bool {
    let code = error.as_database_error().and_then(|database| database.code());
    code.is_some_and(|code| matches!(code.get(..2), Some("21" | "22" | "23")))
}

/// Whether a lock was not had within `lock_timeout` (`55P03`).
pub fn is_lock_timeout(error: &StoreError) -> bool {
    error.as_database_error().and_then(|database| database.code()).as_deref() == Some("55P03")
}

/// Whether the server does not show what was asked for, to this role or to anybody (`42501`, `42883`, `0A000`). It will
/// not later either; what fails for any other reason may be answered the next time.
pub fn is_not_shown(error: &StoreError) -> bool {
    let code = error.as_database_error().and_then(|database| database.code());
    matches!(code.as_deref(), Some("42501" | "42883" | "0A000"))
}

/// Whether no wait can mend it: a setting names something that this program cannot do at all.
pub fn can_never_work(error: &StoreError) -> bool {
    match error {
        StoreError::Configuration(_) => true,
        StoreError::Tls(why) => why.to_string().contains("without TLS support"),
        _ => false,
    }
}

/// What is kept and shown of an error: in our words, with the code that Postgres gives it, by which it can be looked
/// up. What Postgres said itself may quote data and names parts of both sources; it is for the log.
pub fn in_words(error: &StoreError) -> String {
    let words = |code: &str| match (classify(error), code) {
        (_, "22P02" | "22P03") => "a text is no valid JSON, or no valid value of its kind",
        (_, "22021" | "22P05") => "a text has a character that the database cannot hold",
        (_, "22001") => "a text is longer than the database takes",
        (_, "22003") => "a number is out of the database's range",
        (_, "22007" | "22008") => "a moment is out of the database's range",
        (_, "55P03") => "somebody locks what it needs, and does not end",
        (_, "42501") => "the program lacks a right in the database",
        (_, "42P01" | "42703" | "42883") => "the database lacks a part that this program needs",
        (_, "23502" | "23503" | "23514" | "23P01") => "a rule of the database forbids it",
        (Failure::Server, _) => "the database takes no writes at present",
        (Failure::UniqueViolation, _) => "it is stored already",
        (Failure::NoPartition, _) => "the table of its month is missing",
        (Failure::TooMuch, _) => "it took longer than the database lets it",
        (Failure::Data, _) => "the database refuses a value of it",
        (Failure::Unknown, _) => "the database refuses it, and not for a fault of the data that is known",
    };
    match error.as_database_error().and_then(|database| database.code()) {
        Some(code) => format!("{} (SQLSTATE {code})", words(&code)),
        None => words("").to_owned(),
    }
}

/// The server's answers contradict each other, as when rows that were just made are gone: the server's fault.
pub fn contradiction(what: &str) -> StoreError {
    StoreError::Protocol(what.to_owned())
}

fn of_code(code: &str, names_a_constraint: bool) -> Failure {
    match code {
        "23505" => Failure::UniqueViolation,
        // A row that no partition takes fails like a CHECK, but names no constraint.
        "23514" if !names_a_constraint => Failure::NoPartition,
        "23514" => Failure::Data,
        "57014" | "25P04" => Failure::TooMuch,
        // Read-only; idle_in_transaction_session_timeout; lock_timeout.
        "25006" | "25P03" | "55P03" => Failure::Server,
        code => match code.get(..2) {
            Some("22") => Failure::Data,
            // Connections, passwords, no such database, conflicts, resources, an operator, files, configuration.
            Some("08" | "28" | "3D" | "40" | "53" | "57" | "58" | "F0") => Failure::Server,
            _ => Failure::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_the_datas_fault_counts_against_it() {
        for code in ["22P02", "22001", "22P05", "22021", "22003"] {
            assert_eq!(of_code(code, false), Failure::Data, "{code}");
        }
        assert_eq!((of_code("23514", true), of_code("23514", false)), (Failure::Data, Failure::NoPartition));
        for code in ["08006", "25006", "28P01", "28000", "3D000", "40P01", "53100", "55P03", "57P01", "58030", "F0000"]
        {
            assert_eq!(of_code(code, false), Failure::Server, "{code}");
        }
        for code in ["57014", "25P04"] {
            assert_eq!(of_code(code, false), Failure::TooMuch, "{code}");
        }
        for code in
            ["", "0A000", "23502", "23503", "23P01", "25P02", "42501", "42P01", "42703", "55000", "P0001", "XX001"]
        {
            assert_eq!(of_code(code, false), Failure::Unknown, "{code:?}");
        }
    }

    #[test]
    fn an_error_is_told_in_our_words() {
        let strange = StoreError::ColumnNotFound("games.secret".to_owned());
        assert_eq!(in_words(&strange), "the database refuses it, and not for a fault of the data that is known");
        assert_eq!(in_words(&StoreError::PoolTimedOut), "the database takes no writes at present");
    }

    #[test]
    fn a_lost_connection_is_the_servers_fault_and_a_strange_answer_nobodys() {
        assert_eq!(classify(&StoreError::PoolTimedOut), Failure::Server);
        assert_eq!(classify(&StoreError::WorkerCrashed), Failure::Server);
        assert_eq!(classify(&StoreError::ColumnNotFound("x".to_owned())), Failure::Unknown);
    }
}
