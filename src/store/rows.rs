//! Rows by the names of their columns. Not sqlx's derive: its crate builds the driver a second time.

/// Reads each field of a struct from the column of the same name.
macro_rules! from_row {
    ($of:ident { $($column:ident),+ $(,)? }) => {
        impl<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> for $of {
            fn from_row(row: &'r sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
                use sqlx::Row as _;
                Ok(Self { $($column: row.try_get(stringify!($column))?),+ })
            }
        }
    };
}

pub(super) use from_row;
