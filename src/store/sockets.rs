//! Options of the sockets to Postgres that sqlx does not set.
//!
//! `TCP_NODELAY`: a COPY ends with a small message of its own; with Nagle's algorithm the kernel holds that back until the
//! data before it is acknowledged, which the other side delays by 40 ms: measured, each write of a worker took 50 ms
//! instead of 3.
//!
//! Keepalive and a limit on unacknowledged data: a machine that vanishes while it works on a statement ends no
//! connection, and without them whoever asked waits for an answer for ever (what was sent and not acknowledged is
//! repeated for a quarter of an hour). The server's own keepalive, which the pool asks for, frees only the server.
//!
//! sqlx offers no way to its sockets, so they are found among this process's own descriptors.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::time::Duration;

use rustix::net::{getpeername, sockopt};

/// A silent connection is asked for a sign of life after this long …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// … this often …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// … so many times.
const KEEPALIVE_COUNT: u32 = 3;
/// A connection whose data is not acknowledged for this long is dead.
const UNACKNOWLEDGED_MILLIS: u32 = 10_000;

/// Sets `TCP_NODELAY` on every TCP socket that this process has open (each wants it, so there is none to tell apart),
/// and keepalive on those whose peer has the port of Postgres. Best effort: where `/proc` is absent writes are
/// slower and a vanished machine is noticed late. Called after each new connection to Postgres, which is rare.
pub fn set_options(postgres_port: u16) {
    for number in open_sockets() {
        set_on(number, postgres_port);
    }
}

fn open_sockets() -> impl Iterator<Item = RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse::<RawFd>().ok()?;
        let target = std::fs::read_link(entry.path()).ok()?;
        target.as_os_str().as_encoded_bytes().starts_with(b"socket:").then_some(number)
    })
}

#[allow(unsafe_code, reason = "sqlx does not hand out its sockets; see the SAFETY note")]
fn set_on(number: RawFd, postgres_port: u16) {
    // SAFETY: the descriptor was open a moment ago and is only borrowed for a few calls that set options. Should another
    // thread have closed it meanwhile, they fail, or set them on a newer socket of this process, where they do no harm.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    // Fails on sockets that are not TCP, as it should.
    let _ = sockopt::set_tcp_nodelay(socket, true);
    if peer_port(socket) == Some(postgres_port) {
        let _ = keep_alive(socket);
    }
}

fn peer_port(socket: impl AsFd) -> Option<u16> {
    let peer = getpeername(socket).ok()??;
    SocketAddr::try_from(peer).ok().map(|peer| peer.port())
}

fn keep_alive(socket: impl AsFd + Copy) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED_MILLIS)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_socket_to_postgres_is_kept_alive_and_others_are_left_alone() {
        let (postgres, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let connect = |listener: &TcpListener| TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (asked, left_alone) = (connect(&postgres), connect(&other));
        set_options(postgres.local_addr().unwrap().port());
        assert!(sockopt::socket_keepalive(&asked).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&asked).unwrap(), UNACKNOWLEDGED_MILLIS);
        assert!(!sockopt::socket_keepalive(&left_alone).unwrap());
        assert!(sockopt::tcp_nodelay(&asked).unwrap() && sockopt::tcp_nodelay(&left_alone).unwrap());
    }
}
