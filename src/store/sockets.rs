//! Options of the sockets to Postgres that sqlx does not set.
//!
//! `TCP_NODELAY`: a COPY ends with a small message of its own; with Nagle's algorithm the kernel holds that back until
//! the data before it is acknowledged, which the other side delays by 40 ms: measured, each write of a worker took
//! 50 ms instead of 3.
//!
//! Keepalive and a limit on unacknowledged data: a machine that vanishes while it works on a statement ends no
//! connection, and without them whoever asked waits for an answer for ever (what was sent and not acknowledged is
//! repeated for a quarter of an hour). The server's own keepalive, which the pool asks for, frees only the server.
//!
//! And a deadline for answers: a server's process that is stuck answers nothing, while the kernel beneath it goes on
//! acknowledging, and so does a pooler that has lost its server. Only the kernel on our side knows for every connection
//! when it last asked and last heard.
//!
//! sqlx offers no way to its sockets, so they are found among this process's own descriptors.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{Shutdown, getpeername, getsockname, shutdown, sockopt};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::StoreError;

/// A silent connection is asked for a sign of life after this long …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// … this often …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// … so many times.
const KEEPALIVE_COUNT: u32 = 3;
/// A connection whose data is not acknowledged for this long is dead.
const UNACKNOWLEDGED_MILLIS: u32 = 10_000;

/// The kernel counts in ticks of some milliseconds: an answer that came so soon after its question, or so shortly
/// before the next one, cannot be told from it.
const TICK: Duration = Duration::from_millis(10);

/// Sockets to Postgres by descriptor.
static KNOWN: Mutex<Option<HashMap<RawFd, Known>>> = Mutex::new(None);

#[derive(Debug)]
struct Known {
    /// Tells it from a later socket with the same number.
    local: SocketAddr,
    postgres_port: u16,
    /// Who waits on it for longer than usual, and until when.
    patient: BTreeMap<u64, Instant>,
}

/// Numbers those who wait for long.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Somebody waits for longer than usual on a connection; when this is dropped, the usual deadline holds again. To be
/// kept for the long statements alone: the next user of the connection is not to wait as long.
#[derive(Debug)]
#[must_use = "the longer deadline ends when it is dropped"]
pub struct Patience(u64);

impl Drop for Patience {
    fn drop(&mut self) {
        for known in known_sockets().get_or_insert_default().values_mut() {
            known.patient.remove(&self.0);
        }
    }
}

fn known_sockets() -> MutexGuard<'static, Option<HashMap<RawFd, Known>>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    // SAFETY: the descriptor was open a moment ago and is only borrowed for a few calls that set options. Should
    // another thread have closed it meanwhile, they fail, or set them on a newer socket of this process, where
    // they do no harm.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    // Fails on sockets that are not TCP, as it should.
    let _ = sockopt::set_tcp_nodelay(socket, true);
    if peer_port(socket) == Some(postgres_port) {
        let _ = keep_alive(socket);
        if let Some(local) = local_address(socket) {
            let known = Known { local, postgres_port, patient: BTreeMap::new() };
            let mut all = known_sockets();
            let all = all.get_or_insert_default();
            if all.get(&number).is_none_or(|other| other.local != local) {
                all.insert(number, known);
            }
        }
    }
}

/// Closes the connections to Postgres on `postgres_port` that have been without an answer for `longest`; returns how
/// many. Whoever waits on one meets an error. A connection that nobody uses cannot always be told from one that waits;
/// closing it costs a new one.
pub fn close_overdue(postgres_port: u16, longest: Duration) -> u64 {
    let mut closed = 0;
    each_overdue(postgres_port, longest, |socket| {
        closed += u64::from(shutdown(socket, Shutdown::Both).is_ok());
        false
    });
    closed
}

/// Whether a connection to Postgres on `postgres_port` has been without an answer for `longest`.
pub fn is_overdue(postgres_port: u16, longest: Duration) -> bool {
    let mut found = false;
    each_overdue(postgres_port, longest, |_| {
        found = true;
        true
    });
    found
}

/// Shows each connection that has been without an answer for `longest`; whether it goes on being watched is the answer.
fn each_overdue(postgres_port: u16, longest: Duration, mut stays: impl FnMut(BorrowedFd<'_>) -> bool) {
    let now = Instant::now();
    let mut all = known_sockets();
    all.get_or_insert_default().retain(|number, known| {
        if known.postgres_port != postgres_port {
            return true;
        }
        #[allow(unsafe_code, reason = "sqlx does not hand out its sockets; see the SAFETY note")]
        // SAFETY: borrowed for a few calls. That it still is the socket that was noted is asked first; should
        // another thread close it in between, the calls fail, or end one newer connection of this process, which is
        // then made anew.
        let socket = unsafe { BorrowedFd::borrow_raw(*number) };
        if local_address(socket) != Some(known.local) || peer_port(socket) != Some(postgres_port) {
            return false;
        }
        let patient = known.patient.values().any(|until| now < *until);
        if patient || unanswered_for(socket).is_none_or(|since| since < longest) {
            return true;
        }
        stays(socket)
    });
}

/// Gives what runs on a connection `longest` to answer instead of the usual deadline, for as long as the result is
/// kept. Where a pooler stands between, the connection cannot be told from others, and all get that time.
pub async fn be_patient(connection: &mut PgConnection, longest: Duration) -> Result<Patience, StoreError> {
    let port: Option<i32> = sqlx::query_scalar("SELECT inet_client_port()").fetch_one(connection).await?;
    Ok(patient_on(port, longest))
}

fn patient_on(local_port: Option<i32>, longest: Duration) -> Patience {
    let (patience, until) = (Patience(NEXT.fetch_add(1, Ordering::Relaxed)), Instant::now() + longest);
    let mut all = known_sockets();
    let all = all.get_or_insert_default();
    let is_it = |known: &Known| local_port == Some(i32::from(known.local.port()));
    let found = all.values().any(is_it);
    for known in all.values_mut().filter(|known| !found || is_it(known)) {
        known.patient.insert(patience.0, until);
    }
    patience
}

/// How long a question has been without an answer; `None`: the last word was the server's.
fn unanswered_for(socket: BorrowedFd<'_>) -> Option<Duration> {
    let info = tcp_info(socket)?;
    let sent = Duration::from_millis(info.tcpi_last_data_sent.into());
    let received = Duration::from_millis(info.tcpi_last_data_recv.into());
    (received + TICK >= sent).then_some(sent)
}

fn tcp_info(socket: BorrowedFd<'_>) -> Option<libc::tcp_info> {
    // SAFETY: the kernel writes at most `length` bytes, plain numbers, into a value of that size, which
    // begins as zeros.
    #[allow(unsafe_code, reason = "no safe crate reads TCP_INFO; see the SAFETY note")]
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
        let into = std::ptr::from_mut(&mut info).cast();
        let done = libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length);
        (done == 0).then_some(info)
    }
}

fn local_address(socket: impl AsFd) -> Option<SocketAddr> {
    getsockname(socket).ok().and_then(|local| SocketAddr::try_from(local).ok())
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
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_question_without_an_answer_is_ended_and_an_answered_one_is_left_alone() {
        let postgres = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = postgres.local_addr().unwrap();
        let (mut silent, mut answered) = (TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap());
        let (_at_rest, mut answers) = (postgres.accept().unwrap().0, postgres.accept().unwrap().0);
        set_options(address.port());
        let longest = Duration::from_millis(200);
        silent.write_all(b"?").unwrap();
        answered.write_all(b"?").unwrap();
        assert_eq!(close_overdue(address.port(), longest), 0, "nothing is overdue yet");
        // Half the time later, so that question and answer can be told apart.
        std::thread::sleep(longest / 2);
        answers.write_all(b"!").unwrap();
        std::thread::sleep(longest);
        assert_eq!(close_overdue(address.port(), longest), 1);
        let mut byte = [0];
        assert_eq!(silent.read(&mut byte).unwrap(), 0, "whoever waits hears that it has ended");
        assert_eq!((answered.read(&mut byte).unwrap(), &byte), (1, b"!"));
        assert_eq!(close_overdue(address.port(), longest), 0);
    }

    #[test]
    fn a_longer_deadline_ends_with_the_statement_that_asked_for_it() {
        let postgres = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = postgres.local_addr().unwrap();
        let mut asked = TcpStream::connect(address).unwrap();
        let _silent = postgres.accept().unwrap().0;
        set_options(address.port());
        let long = Duration::from_secs(3600);
        let local = Some(i32::from(asked.local_addr().unwrap().port()));
        let (patience, other) = (patient_on(local, long), patient_on(local, long));
        asked.write_all(b"?").unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let close = || close_overdue(address.port(), Duration::from_millis(100));
        assert_eq!(close(), 0, "it has an hour");
        drop(other);
        assert_eq!(close(), 0, "the other who waits still has one");
        drop(patience);
        assert_eq!(close(), 1, "the next user of the connection has not");
    }

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
