//! Where a disk's bytes are read: an NBD server (the operator's, or one that the host runs for VDDK), or ranges of
//! a file over HTTPS. A transport descriptor comes from a plugin and was checked against its grants before.

mod vddk;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemark_model::{ByteLen, Extent, ExtentList};
use tidemark_nbd::{Client, ClientOptions, ReconnectPolicy};
use tidemark_plugins::{RangeReader, Transport};
use tidemark_qcow2::Chain;

use crate::error::{Error, ErrorKind, Result};
use crate::store::blocking;

pub(crate) use vddk::{VddkOptions, VddkServer};

/// How to reach a source.
#[derive(Debug, Clone, Default)]
pub(crate) struct SourceOptions {
    /// How the NBD client behaves when the server goes away.
    pub(crate) reconnect: ReconnectPolicy,
    /// Where `nbdkit` and VDDK are, for that transport.
    pub(crate) vddk: VddkOptions,
}

/// An open disk.
pub(crate) struct Source {
    reader: Reader,
    size: ByteLen,
    /// Serves the reader and ends with it.
    server: Option<VddkServer>,
}

enum Reader {
    Nbd(Client),
    Http(Box<RangeReader>),
    Chain(Arc<Chain>),
}

impl Source {
    /// Opens what `transport` describes. `secret` gives the connection's secrets by name.
    pub(crate) async fn open(
        transport: &Transport,
        secret: impl Fn(&str) -> Option<String>,
        options: &SourceOptions,
    ) -> Result<Self> {
        match transport {
            Transport::Nbd { uri } => Self::open_nbd(uri, options, None).await,
            Transport::Vddk(descriptor) => {
                let password = secret(&descriptor.password_secret).ok_or_else(|| {
                    Error::invalid(format!("the connection has no secret '{}'", descriptor.password_secret))
                })?;
                let server = VddkServer::start(descriptor, &password, &options.vddk).await?;
                let uri = server.uri();
                Self::open_nbd(&uri, options, Some(server)).await
            }
            Transport::HttpRange(descriptor) => {
                let reader = RangeReader::open(descriptor).await?;
                Ok(Self { size: reader.size(), reader: Reader::Http(Box::new(reader)), server: None })
            }
        }
    }

    async fn open_nbd(uri: &str, options: &SourceOptions, server: Option<VddkServer>) -> Result<Self> {
        let parsed = uri
            .parse()
            .map_err(|e: tidemark_nbd::Error| Error::from(e).context("the plugin's NBD address"))?;
        let mut client = ClientOptions::new(parsed);
        client.reconnect = options.reconnect;
        if server.is_some() {
            // VDDK serves one connection; a second one would open the disk again.
            client.connections = 1;
        }
        let client = Client::connect(client).await?;
        Ok(Self { size: client.size(), reader: Reader::Nbd(client), server })
    }

    /// A disk that is stored already.
    pub(crate) fn over_chain(chain: Arc<Chain>) -> Self {
        Self { size: chain.virtual_size(), reader: Reader::Chain(chain), server: None }
    }

    pub(crate) fn size(&self) -> ByteLen {
        self.size
    }

    /// The bytes of `extent`, in `buffer`.
    pub(crate) async fn read(&self, extent: Extent, buffer: BytesMut) -> Result<BytesMut> {
        match &self.reader {
            Reader::Nbd(client) => client.read(extent, buffer).await.map_err(Error::from),
            Reader::Http(reader) => {
                let bytes = reader.read(extent).await?;
                Ok(BytesMut::from(Bytes::from(bytes)))
            }
            Reader::Chain(chain) => {
                let chain = Arc::clone(chain);
                blocking("reading a chain", move || {
                    let mut buffer = buffer;
                    buffer.resize(usize::try_from(extent.length.0).unwrap_or(usize::MAX), 0);
                    chain.read_at(extent.offset, &mut buffer)?;
                    Ok(buffer)
                })
                .await
            }
        }
    }

    /// The ranges of the whole disk that may hold data; none where the source cannot tell.
    pub(crate) async fn allocated(&self) -> Result<Option<ExtentList>> {
        match &self.reader {
            Reader::Nbd(client) if client.info().contexts.iter().any(|name| name == "base:allocation") => {
                let whole = Extent::new(0, self.size.0).map_err(|e| Error::damaged(e.to_string()))?;
                Ok(Some(client.allocated(whole).await?))
            }
            Reader::Nbd(_) | Reader::Http(_) | Reader::Chain(_) => Ok(None),
        }
    }

    /// Ends the connection, and the server behind it.
    pub(crate) async fn close(self) {
        if let Reader::Nbd(client) = self.reader {
            client.close().await;
        }
        if let Some(server) = self.server {
            server.stop().await;
        }
    }
}

impl From<tidemark_nbd::Error> for Error {
    fn from(error: tidemark_nbd::Error) -> Self {
        use tidemark_nbd::ErrorKind as Nbd;
        let kind = match error.kind() {
            Nbd::Changed | Nbd::Protocol => ErrorKind::Damaged,
            Nbd::InvalidUri | Nbd::InvalidRequest => ErrorKind::Invalid,
            Nbd::Tls => ErrorKind::Auth,
            _ => ErrorKind::Unavailable,
        };
        Self::wrap(kind, "reading the source disk", error)
    }
}
