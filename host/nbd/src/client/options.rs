//! What a client is told, and what it learns of an export.

use std::path::PathBuf;
use std::time::Duration;

use tidemark_model::ByteLen;

use crate::codec::{BASE_ALLOCATION, BlockSizes, TransmissionFlags};
use crate::uri::NbdUri;

/// Which server certificate is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsTrust {
    /// One that a certificate authority in this PEM file signed, for the server's name.
    CaFile(PathBuf),
    /// The one whose DER form has this SHA-256 digest, whatever its name, issuer or dates.
    PinnedSha256([u8; 32]),
}

/// The client's own certificate, for servers that ask for one. Both files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How to speak TLS with a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// Whom to believe.
    pub trust: TlsTrust,
    /// The name the certificate must carry; the URI's host when absent, `localhost` for a Unix socket.
    pub server_name: Option<String>,
    /// The client's own certificate.
    pub identity: Option<TlsIdentity>,
}

/// How to come back after a connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReconnectPolicy {
    /// The most attempts in a row, and the most times that one request is sent again; zero never reconnects.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles from then on.
    pub first_backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
}

impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self { attempts: 8, first_backoff: Duration::from_millis(250), max_backoff: Duration::from_secs(15) }
    }
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// The server and export.
    pub uri: NbdUri,
    /// How to speak TLS. When given, TLS is required whatever the URI says; a URI that requires TLS needs it.
    pub tls: Option<TlsOptions>,
    /// The most connections; more than one only where the server allows several.
    pub connections: usize,
    /// The most requests at a time on each connection.
    pub in_flight: usize,
    /// The metadata contexts to ask for. Those the server does not offer are left out of
    /// [`ExportInfo::contexts`]. With none, structured replies are not asked for.
    pub contexts: Vec<String>,
    /// How to come back after a connection is lost.
    pub reconnect: ReconnectPolicy,
    /// How long connecting and negotiating may take, each time.
    pub connect_timeout: Duration,
    /// How long the server may take to answer one request.
    pub request_timeout: Duration,
}

impl ClientOptions {
    /// The usual options: a connection for each core, two to four, of 16 requests each, `base:allocation`, reconnecting.
    #[must_use]
    pub fn new(uri: NbdUri) -> Self {
        Self {
            uri,
            tls: None,
            connections: connections(),
            in_flight: 16,
            contexts: vec![BASE_ALLOCATION.to_owned()],
            reconnect: ReconnectPolicy::default(),
            connect_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
        }
    }
}

/// More than there are cores only cost switches between tasks; one alone would leave the server's other cores idle.
fn connections() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4)
}

/// What was negotiated for an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// The disk's size.
    pub size: ByteLen,
    /// What the server said the export can do.
    pub flags: TransmissionFlags,
    /// The sizes that requests must respect.
    pub block_sizes: BlockSizes,
    /// The metadata contexts that were asked for and are offered.
    pub contexts: Vec<String>,
    /// Whether the server allows several connections.
    pub multi_conn: bool,
    /// Whether replies come in chunks on the first connection.
    pub structured_replies: bool,
    /// How many connections are in use.
    pub connections: usize,
}

/// A run of bytes with one status in a metadata context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// How long it is.
    pub length: ByteLen,
    /// The context's flags, for example [`STATE_HOLE`](crate::codec::STATE_HOLE) in `base:allocation`, or 1 for
    /// dirty in `qemu:dirty-bitmap:…`.
    pub flags: u32,
}

/// An export, as a server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedExport {
    /// Its name.
    pub name: String,
    /// A text for people, often empty.
    pub description: String,
}
