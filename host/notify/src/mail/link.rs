//! The connection under a dialogue: one deadline for everything, TLS from the start or from later on.
//!
//! The deadline is what the socket's timeouts alone cannot give: a server that sends a byte now and then would keep a
//! read that waits for a line busy for ever.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

/// A socket that answers with `TimedOut` once its time is over.
pub(super) struct Timed {
    socket: TcpStream,
    deadline: Instant,
}

/// A connection, with TLS or still without.
pub(super) enum Link {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Link {
    /// The first address of `host` that lets itself be connected with.
    pub(super) fn open(host: &str, port: u16, deadline: Instant) -> io::Result<Self> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut addresses = resolve(host, port, deadline)?;
        while let Some(address) = addresses.pop_front() {
            // An address that swallows everything leaves time for those behind it.
            let others = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
            match TcpStream::connect_timeout(&address, left(deadline)? / others.saturating_add(1)) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    return Ok(Self::Plain(Timed { socket, deadline }));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Does the handshake of TLS; a connection that has it already stays as it is.
    pub(super) fn secured(self, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let Self::Plain(mut socket) = self else { return Ok(self) };
        let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Self::Tls(Box::new(StreamOwned::new(connection, socket))))
    }

    pub(super) fn is_secured(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    pub(super) fn peer_address(&self) -> io::Result<SocketAddr> {
        self.socket().peer_addr()
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(timed) => &timed.socket,
            Self::Tls(stream) => &stream.sock.socket,
        }
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(timed) => timed.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(timed) => timed.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(timed) => timed.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(left(self.deadline)?))?;
        self.socket.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(left(self.deadline)?))?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The system's resolver knows no deadline, so it has a thread of its own, which ends when the resolver gives up.
fn resolve(host: &str, port: u16, deadline: Instant) -> io::Result<VecDeque<SocketAddr>> {
    let (found, wanted) = mpsc::sync_channel(1);
    let host = host.to_owned();
    thread::Builder::new().name("resolve".to_owned()).spawn(move || {
        let addresses = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Nobody waits any more where the time was over.
        let _ = found.send(addresses);
    })?;
    wanted.recv_timeout(left(deadline)?).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
