//! A TCP proxy that can hold what is sent to a server, and let it go on.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub struct Gate {
    pub address: SocketAddr,
    open: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Gate {
    /// An open gate before a server.
    pub async fn before(host: String, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, opened) = watch::channel(true);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
                connections.spawn(forward(client, server, opened.clone()));
            }
        });
        Self { address, open, _accepting: accepting }
    }

    /// From now on nothing reaches the server.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// What was held goes on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

async fn forward(client: TcpStream, server: TcpStream, mut opened: watch::Receiver<bool>) {
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
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}
