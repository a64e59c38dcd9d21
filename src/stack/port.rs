//! Loopback ports that nobody else is given.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A loopback port that stays ours while this value lives: for a server that starts in a moment, and starts again.
///
/// It holds a socket that is bound and never listens. The system then gives the port to no outgoing connection and to
/// no bind to port 0, but lets a server with `SO_REUSEADDR` (Postgres, Redis, tokio's listeners) bind it by its
/// number. A port that was merely free a moment ago is, on a busy machine, sometimes somebody's outgoing connection
/// when its server comes.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _held: TcpSocket,
}

impl ReservedPort {
    /// Any free port of 127.0.0.1.
    ///
    /// # Errors
    /// What the system says, for example that no port is free.
    pub fn new() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { address: socket.local_addr()?, _held: socket })
    }

    /// 127.0.0.1 and the port.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.address.port()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_may_have_it_again_and_again_and_nobody_else_is_given_it() {
        let reserved = ReservedPort::new().unwrap();
        for _ in 0..2 {
            let server = TcpListener::bind(reserved.address()).await.unwrap();
            let client = tokio::net::TcpStream::connect(reserved.address()).await.unwrap();
            drop((server.accept().await.unwrap(), client));
        }
        let other = TcpSocket::new_v4().unwrap();
        assert_eq!(other.bind(reserved.address()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
