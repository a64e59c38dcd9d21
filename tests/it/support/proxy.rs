//! A TCP proxy in front of Redis that can swallow answers: Redis does what it was told, and nobody hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub struct Proxy {
    pub url: String,
    swallowing: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let swallowing = Arc::new(AtomicUsize::new(usize::MAX));
        let swallow = swallowing.clone();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                connections.spawn(forward(client, server, swallow.clone()));
            }
        });
        Self { url, swallowing, _accepting: accepting }
    }

    /// From now on commands reach Redis and answers of this many bytes and more reach nobody.
    pub fn swallow_answers_from(&self, bytes: usize) {
        self.swallowing.store(bytes, Ordering::SeqCst);
    }

    /// From now on all is well for new connections.
    pub fn swallow_nothing(&self) {
        self.swallow_answers_from(usize::MAX);
    }
}

/// Forwards both ways. A connection of which an answer was swallowed never answers again.
async fn forward(client: TcpStream, server: TcpStream, swallow: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let commands = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let answers = async {
        let (mut buffer, mut deaf) = (vec![0; 64 << 10], false);
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            deaf |= read >= swallow.load(Ordering::SeqCst);
            if !deaf && to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = commands => {}
        () = answers => {}
    }
}
