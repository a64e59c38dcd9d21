//! Limits of requests and events over time.
