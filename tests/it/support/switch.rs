//! A TCP proxy whose server can be changed, as an address is that moves to another machine; or be taken away.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub struct Switch {
    pub port: u16,
    server: Arc<watch::Sender<Option<u16>>>,
    _accepting: JoinSet<()>,
}

impl Switch {
    /// Leads to a local server.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let server = Arc::new(watch::Sender::new(Some(port)));
        let current = server.clone();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let mut now = current.subscribe();
                let Some(port) = *now.borrow_and_update() else { continue };
                connections.spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let (mut client, mut server) = (client, server);
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = now.changed() => {}
                    }
                });
            }
        });
        Self { port: own, server, _accepting: accepting }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// From now on it leads to another server, or to none; every connection ends.
    pub fn lead_to(&self, port: Option<u16>) {
        self.server.send_replace(port);
    }
}
