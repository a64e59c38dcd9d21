//! A TCP proxy that fails on demand: latency, resets, black holes, half-closed connections, sliced bytes.
//!
//! It stands between two processes, so it cannot drop packets: in its black hole bytes are neither lost nor delivered
//! while it lasts; then they arrive (as TCP repeats what was lost), or every connection is reset (as by a peer that
//! forgot it), or no old connection ever carries anything again (as behind a firewall that forgot it).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes carried at once.
const BUFFER: usize = 16 << 10;
/// Longest slice where slices are the fault.
pub const SMALL_SLICES: usize = 64;
/// Longest slice while something else is: in smaller ones a backlog would measure the proxies.
pub const LARGE_SLICES: usize = 2048;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    ToServer,
    /// To the client.
    ToClient,
}

/// What is done at once to every open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Nothing yet.
    None,
    /// Both sides see a reset.
    Reset,
    /// One side sees the end of the stream; the other way goes on.
    HalfClose(Way),
    /// Both sides hear nothing any more.
    Silence,
}

/// A proxy on a loopback port of its own. It ends with this value.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    to: SocketAddr,
    latency_millis: AtomicU64,
    /// The longest slice; 0: whole.
    slice: AtomicUsize,
    hole: watch::Sender<bool>,
    cut: watch::Sender<Cut>,
    open: AtomicU64,
    held: AtomicU64,
}

impl Proxy {
    /// Starts one in front of `to`.
    ///
    /// # Errors
    /// No port is free.
    pub async fn before(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            to,
            latency_millis: AtomicU64::new(0),
            slice: AtomicUsize::new(0),
            hole: watch::Sender::new(false),
            cut: watch::Sender::new(Cut::None),
            open: AtomicU64::new(0),
            held: AtomicU64::new(0),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { address, state, _accepting: accepting })
    }

    /// Delays every piece by about so long; zero: not at all.
    pub fn delay(&self, by: Duration) {
        self.state.latency_millis.store(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// Carries every piece in slices of 1 to `longest` bytes; 0: whole again.
    pub fn slice(&self, longest: usize) {
        self.state.slice.store(longest, Ordering::Relaxed);
    }

    /// Carries nothing from now on, or goes on.
    pub fn hole(&self, hole: bool) {
        self.state.hole.send_replace(hole);
    }

    /// How many connections are open.
    pub fn open(&self) -> u64 {
        self.state.open.load(Ordering::Relaxed)
    }

    /// How many new connections wait in the hole.
    pub fn held(&self) -> u64 {
        self.state.held.load(Ordering::Relaxed)
    }

    /// Resets every open connection; returns how many there were.
    pub fn reset(&self) -> u64 {
        self.cut(Cut::Reset)
    }

    /// Ends one way of every open connection; returns how many there were.
    pub fn half_close(&self, way: Way) -> u64 {
        self.cut(Cut::HalfClose(way))
    }

    /// Carries nothing more on any open connection, and tells nobody; returns how many there were.
    pub fn silence(&self) -> u64 {
        self.cut(Cut::Silence)
    }

    fn cut(&self, cut: Cut) -> u64 {
        self.state.cut.send_replace(cut);
        self.state.open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(connect(client, Arc::clone(&state)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, state: Arc<State>) {
    let mut hole = state.hole.subscribe();
    let cuts = state.cut.subscribe();
    state.held.fetch_add(1, Ordering::Relaxed);
    let open = hole.wait_for(|hole| !hole).await.is_ok();
    state.held.fetch_sub(1, Ordering::Relaxed);
    if !open {
        return;
    }
    let Ok(server) = TcpStream::connect(state.to).await else { return };
    // Who knocks at a free port for long enough may reach itself.
    if server.local_addr().ok() == server.peer_addr().ok() {
        return;
    }
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    state.open.fetch_add(1, Ordering::Relaxed);
    carry_both(client, server, &state, cuts).await;
    state.open.fetch_sub(1, Ordering::Relaxed);
}

async fn carry_both(mut client: TcpStream, mut server: TcpStream, state: &State, mut cuts: watch::Receiver<Cut>) {
    let reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (up, down) = (cuts.clone(), cuts.clone());
        let both = async {
            tokio::try_join!(
                carry(from_client, to_server, state, Way::ToServer, up),
                carry(from_server, to_client, state, Way::ToClient, down),
            )
        };
        tokio::select! {
            ended = both => ended.is_err(),
            () = told(&mut cuts, Cut::Reset) => true,
        }
    };
    if reset {
        // Closed with a time to linger of zero, a socket sends a reset.
        let _ = rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO));
        let _ = rustix::net::sockopt::set_socket_linger(&server, Some(Duration::ZERO));
    }
}

/// Reads to the end and lets nobody know what.
async fn swallow(mut from: ReadHalf<'_>, mut read: usize) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while read > 0 {
        read = from.read(&mut buffer).await?;
    }
    Err(io::ErrorKind::ConnectionReset.into())
}

/// Waits for the next cut of this kind; what was cut before does not count.
async fn told(cuts: &mut watch::Receiver<Cut>, wanted: Cut) {
    loop {
        if cuts.changed().await.is_err() {
            return std::future::pending().await;
        }
        if *cuts.borrow_and_update() == wanted {
            return;
        }
    }
}

/// Carries one way until it ends or is ended.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    state: &State,
    way: Way,
    mut cuts: watch::Receiver<Cut>,
) -> io::Result<()> {
    let mut hole = state.hole.subscribe();
    let mut silenced = cuts.clone();
    let mut random = SmallRng::from_os_rng();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            () = told(&mut cuts, Cut::HalfClose(way)) => 0,
        };
        tokio::select! {
            // Whoever is silenced in a hole stays silent after it.
            biased;
            () = told(&mut silenced, Cut::Silence) => return swallow(from, read).await,
            open = async { hole.wait_for(|hole| !hole).await.is_ok() } => if !open || read == 0 {
                return to.shutdown().await;
            },
        }
        let latency = state.latency_millis.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_millis(random.random_range(latency / 2..=latency * 3 / 2))).await;
        }
        let longest = state.slice.load(Ordering::Relaxed);
        if longest == 0 {
            to.write_all(&buffer[..read]).await?;
            continue;
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let (slice, more) = rest.split_at(random.random_range(1..=longest).min(rest.len()));
            to.write_all(slice).await?;
            tokio::task::yield_now().await;
            rest = more;
        }
    }
}
