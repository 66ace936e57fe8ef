//! Running programs: servers that end with the test, tools that must succeed.

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tidemark_model::{ByteLen, Extent, GuestOffset};
use tidemark_nbd::{Client, ClientOptions, NbdUri, ReconnectPolicy};

/// A server process; killed when dropped.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Starts a program and waits until `socket` takes connections.
    pub(crate) fn start<S: AsRef<OsStr>>(program: &str, arguments: &[S], socket: &Path) -> Self {
        let daemon = Self::spawn(program, arguments);
        daemon.wait(|| UnixStream::connect(socket).is_ok())
    }

    /// Starts a program and waits until a loopback port takes connections.
    pub(crate) fn start_tcp<S: AsRef<OsStr>>(program: &str, arguments: &[S], port: u16) -> Self {
        let daemon = Self::spawn(program, arguments);
        daemon.wait(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    fn spawn<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")))
    }

    fn wait(mut self, ready: impl Fn() -> bool) -> Self {
        let patience = Instant::now() + Duration::from_secs(60);
        while !ready() {
            if let Some(status) = self.0.try_wait().unwrap() {
                panic!("the server ended at once: {status}");
            }
            assert!(Instant::now() < patience, "the server does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        self
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a tool to its end; its standard output.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} ended with {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// [`run`] where the tool would block a server in this process.
pub(crate) async fn run_beside(program: &'static str, arguments: Vec<String>) -> String {
    tokio::task::spawn_blocking(move || run(program, &arguments)).await.unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn extent(offset: u64, length: u64) -> Extent {
    Extent::new(offset, length).unwrap()
}

/// Options that give up soon, so that failures show in a test's time.
pub(crate) fn quick(uri: NbdUri) -> ClientOptions {
    ClientOptions {
        reconnect: ReconnectPolicy {
            attempts: 6,
            first_backoff: Duration::from_millis(20),
            max_backoff: Duration::from_millis(200),
        },
        connect_timeout: Duration::from_secs(20),
        ..ClientOptions::new(uri)
    }
}

/// Reads the whole disk in parallel pieces.
pub(crate) async fn read_all(client: &Client, piece: u64) -> Vec<u8> {
    use futures_util::{StreamExt, stream};
    let size = client.size().0;
    let pieces = (0..size).step_by(usize::try_from(piece).unwrap());
    let read = stream::iter(pieces)
        .map(|offset| {
            let client = client.clone();
            let extent = Extent { offset: GuestOffset(offset), length: ByteLen(piece.min(size - offset)) };
            async move { client.read(extent, BytesMut::new()).await.unwrap() }
        })
        .buffered(48);
    read.collect::<Vec<_>>().await.concat()
}

/// Bytes that differ everywhere, the same each time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}
