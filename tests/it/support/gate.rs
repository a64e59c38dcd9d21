//! A TCP proxy that can hold what is sent to a server, or what it answers, and let it go on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub struct Gate {
    pub address: SocketAddr,
    open: watch::Sender<bool>,
    answers: watch::Sender<bool>,
    held: Arc<AtomicBool>,
    _accepting: JoinSet<()>,
}

impl Gate {
    /// An open gate before a server.
    pub async fn before(host: String, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, opened) = watch::channel(true);
        let (answers, answering) = watch::channel(true);
        let held = Arc::new(AtomicBool::new(false));
        let holds = Arc::clone(&held);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
                connections.spawn(forward(client, server, opened.clone(), (answering.clone(), holds.clone())));
            }
        });
        Self { address, open, answers, held, _accepting: accepting }
    }

    /// From now on the server is reached, and nobody hears what it answers.
    pub fn hold_answers(&self) {
        self.held.store(false, Ordering::SeqCst);
        self.answers.send_replace(false);
    }

    /// Whether the server has answered something that nobody has heard.
    pub fn holds_an_answer(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// From now on nothing reaches the server.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// What was held goes on.
    pub fn open(&self) {
        self.open.send_replace(true);
        self.answers.send_replace(true);
    }
}

async fn forward(
    client: TcpStream,
    server: TcpStream,
    mut opened: watch::Receiver<bool>,
    (mut answering, held): (watch::Receiver<bool>, Arc<AtomicBool>),
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            let _ = opened.wait_for(|open| *open).await;
            if to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            held.fetch_or(!*answering.borrow(), Ordering::SeqCst);
            let _ = answering.wait_for(|answering| *answering).await;
            if to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}
