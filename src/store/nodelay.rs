//! `TCP_NODELAY` for the sockets to Postgres.
//!
//! sqlx does not set it. A COPY ends with a small message of its own; with Nagle's algorithm the kernel holds that
//! back until the data before it is acknowledged, which the other side delays by 40 ms: measured, each write of a
//! worker took 50 ms instead of 3. sqlx offers no way to its sockets, so they are found among this process's own
//! descriptors. Every TCP socket that a process of ours has wants the option, so there is none to tell apart.

use std::os::fd::{BorrowedFd, RawFd};

/// Sets `TCP_NODELAY` on every TCP socket that this process has open. Best effort: where `/proc` is absent writes are
/// slower, not wrong. Called after each new connection to Postgres, which is rare.
pub fn set_on_all_sockets() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    for entry in entries.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if std::fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
        {
            set_on(number);
        }
    }
}

#[allow(unsafe_code, reason = "sqlx does not hand out its sockets; see the SAFETY note")]
fn set_on(number: RawFd) {
    // SAFETY: the descriptor was open a moment ago and is only borrowed for one `setsockopt`. Should another thread
    // have closed it meanwhile, the call fails, or sets the option on a newer socket of this process: wanted too.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    // Fails on sockets that are not TCP, as it should.
    let _ = rustix::net::sockopt::set_tcp_nodelay(socket, true);
}
