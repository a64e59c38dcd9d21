//! When a failed job runs again.
