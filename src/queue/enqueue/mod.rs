//! Into the queue: receipts, limits, admission and push in one script call per request.
//!
//! Only an answer of Redis counts as done (ARCHITECTURE.md#invariants): on any error the batch may or may not be
//! queued, the client is told so, and sending it again unchanged is safe.
//!
//! Read in this order: `request`, `keys`, `script`, `admission`, `call`, `apart`, `enqueuer`. No file uses one that
//! stands behind it.

mod admission;
mod apart;
mod call;
mod enqueuer;
mod keys;
mod request;
mod script;

pub use admission::{Admission, Closed};
pub use enqueuer::Enqueuer;
pub use request::{
    AddressCount, Counted, EnqueueError, EnqueueReply, EnqueueRequest, Enqueued, OverQuota, QuotaCount, QuotaSubject,
    ReceiptName, Remember,
};
