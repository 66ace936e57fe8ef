//! Requests over the lanes: checks, the choice of a connection, and sending again what may be sent again.

use bytes::{Bytes, BytesMut};
use tidemark_model::{ByteLen, Extent, GuestOffset};

use super::Core;
use super::connection::{Connection, Work};
use super::lane::Lane;
use super::options::StatusExtent;
use super::reply::Coverage;
use super::status::{MAX_STATUS_REQUEST, StatusMap};
use crate::codec::{Command, Cookie, Errno, REQUEST_DF, RequestHeader, TransmissionFlags};
use crate::error::{Error, ErrorKind, Result};

impl Core {
    pub(super) async fn read(&self, extent: Extent, buffer: BytesMut) -> Result<BytesMut> {
        let length = self.check_request(extent)?;
        let mut buffer = Some(buffer);
        let mut sent = 0;
        loop {
            let (lane, slot) = self.slot().await?;
            let connection = lane.connection().await?;
            let mut memory = buffer.take().unwrap_or_default();
            memory.clear();
            memory.reserve(length as usize);
            let header = read_header(&connection, extent.offset, length);
            let work = Work::Read { buffer: memory, coverage: Coverage::default() };
            match connection.submit(header, Bytes::new(), work, slot, self.request_timeout).await {
                Ok(Work::Read { buffer, .. }) => return Ok(buffer),
                Ok(_) => return Err(mismatch()),
                Err(failure) => {
                    self.before_repeat(&connection, failure.error, &mut sent).await?;
                    buffer = failure.buffer;
                }
            }
        }
    }

    pub(super) async fn block_status(&self, context: &str, extent: Extent) -> Result<Vec<StatusExtent>> {
        self.check_inside(extent)?;
        self.check_aligned(extent)?;
        let lane = self.lanes.first().ok_or_else(mismatch)?;
        let names = &self.info.contexts;
        let position = names.iter().position(|name| name == context).ok_or_else(|| {
            let offered = names.join(", ");
            let context = format!("the context '{context}' was not negotiated (only [{offered}])");
            Error::new(ErrorKind::Unsupported, context)
        })?;
        // Contexts are known by their place: a server may give them other numbers after a reconnect.
        let places = || (0..names.len()).filter_map(|place| u32::try_from(place).ok());
        let mut map = StatusMap::new(places().map(crate::codec::ContextId));
        let (mut offset, end) = (extent.offset.0, extent.end().0);
        while offset < end {
            let asked = (end - offset).min(MAX_STATUS_REQUEST);
            let reply = self.status_reply(lane, GuestOffset(offset), asked).await?;
            let covered = map.add(&reply, asked)?;
            if covered == 0 {
                return Err(Error::new(ErrorKind::Protocol, "a block status that covers nothing"));
            }
            offset += covered;
        }
        let place = crate::codec::ContextId(u32::try_from(position).unwrap_or(u32::MAX));
        map.into_list(place).ok_or_else(mismatch)
    }

    /// One reply, its contexts numbered by their place in [`ExportInfo::contexts`](super::ExportInfo::contexts).
    async fn status_reply(
        &self,
        lane: &Lane,
        offset: GuestOffset,
        asked: u64,
    ) -> Result<Vec<(crate::codec::ContextId, Vec<crate::codec::WireExtent>)>> {
        let length = u32::try_from(asked).map_err(|_| mismatch())?;
        let mut sent = 0;
        loop {
            let slot = lane.slots.clone().acquire_owned().await.map_err(|_| super::connection::closed())?;
            let connection = lane.connection().await?;
            let header = header(Command::BLOCK_STATUS, offset, length);
            let work = Work::Status { lists: Vec::new() };
            match connection.submit(header, Bytes::new(), work, slot, self.request_timeout).await {
                Ok(Work::Status { lists }) => {
                    let placed = lists.into_iter().filter_map(|(id, extents)| {
                        let place = connection.contexts.iter().position(|(known, _)| *known == id)?;
                        Some((crate::codec::ContextId(u32::try_from(place).ok()?), extents))
                    });
                    return Ok(placed.collect());
                }
                Ok(_) => return Err(mismatch()),
                Err(failure) => self.before_repeat(&connection, failure.error, &mut sent).await?,
            }
        }
    }

    /// A write, or a command that changes the range in another way; sent once.
    pub(super) async fn change(&self, command: Command, extent: Extent, data: Bytes) -> Result<()> {
        let length = if command == Command::WRITE {
            self.check_request(extent)?
        } else {
            u32::try_from(extent.length.0).map_err(|_| mismatch())?
        };
        self.check_writable(command)?;
        self.once(header(command, extent.offset, length), data).await
    }

    /// [`change`](Self::change) for ranges of any length.
    pub(super) async fn change_all(&self, command: Command, extent: Extent) -> Result<()> {
        self.check_inside(extent)?;
        self.check_aligned(extent)?;
        let (mut offset, end) = (extent.offset.0, extent.end().0);
        while offset < end {
            let length = (end - offset).min(MAX_STATUS_REQUEST);
            let part = Extent { offset: GuestOffset(offset), length: ByteLen(length) };
            self.change(command, part, Bytes::new()).await?;
            offset += length;
        }
        Ok(())
    }

    pub(super) async fn flush(&self) -> Result<()> {
        if !self.info.flags.contains(TransmissionFlags::SEND_FLUSH) {
            return Err(Error::new(ErrorKind::Unsupported, "the server has no flush"));
        }
        let before = self.fate.before_flush();
        self.once(header(Command::FLUSH, GuestOffset(0), 0), Bytes::new()).await?;
        self.fate.note_flush(before);
        Ok(())
    }

    async fn once(&self, header: RequestHeader, data: Bytes) -> Result<()> {
        let (lane, slot) = self.slot().await?;
        let connection = lane.connection().await?;
        let is_write = header.command != Command::FLUSH;
        if is_write {
            self.fate.note_write();
        }
        let done = connection.submit(header, data, Work::Plain, slot, self.request_timeout).await;
        if is_write {
            self.fate.note_write();
        }
        done.map(|_| ()).map_err(|failure| failure.error)
    }

    /// The lane with the most room, and a slot on it.
    async fn slot(&self) -> Result<(&Lane, tokio::sync::OwnedSemaphorePermit)> {
        let lane =
            self.lanes.iter().max_by_key(|lane| lane.slots.available_permits()).ok_or_else(mismatch)?;
        let slot = lane.slots.clone().acquire_owned().await.map_err(|_| super::connection::closed())?;
        Ok((lane, slot))
    }

    /// Returns the error unless the request may be sent again; waits longer each time.
    async fn before_repeat(&self, connection: &Connection, error: Error, sent: &mut u32) -> Result<()> {
        let lost = match error.kind() {
            ErrorKind::Disconnected | ErrorKind::Timeout => true,
            ErrorKind::Remote(Errno::SHUTDOWN) => {
                connection.end(error.clone());
                true
            }
            _ => false,
        };
        if !lost || *sent >= self.reconnect.attempts {
            return Err(error);
        }
        tokio::time::sleep(self.reconnect.pause(*sent)).await;
        *sent += 1;
        Ok(())
    }

    fn check_request(&self, extent: Extent) -> Result<u32> {
        self.check_inside(extent)?;
        self.check_aligned(extent)?;
        let maximum = self.info.block_sizes.maximum;
        match u32::try_from(extent.length.0) {
            Ok(length) if length > 0 && length <= maximum => Ok(length),
            _ => Err(invalid(format!("one request carries between 1 and {maximum} bytes"))),
        }
    }

    pub(super) fn check_inside(&self, extent: Extent) -> Result<()> {
        let end = extent.offset.0.checked_add(extent.length.0);
        if end.is_none_or(|end| end > self.info.size.0) {
            return Err(invalid(format!("beyond the end of a disk of {}", self.info.size)));
        }
        Ok(())
    }

    fn check_aligned(&self, extent: Extent) -> Result<()> {
        let block = u64::from(self.info.block_sizes.minimum);
        if !extent.offset.0.is_multiple_of(block) || !extent.length.0.is_multiple_of(block) {
            return Err(invalid(format!("the server takes only multiples of {block} bytes")));
        }
        Ok(())
    }

    fn check_writable(&self, command: Command) -> Result<()> {
        let flags = self.info.flags;
        if flags.contains(TransmissionFlags::READ_ONLY) {
            return Err(Error::new(ErrorKind::Unsupported, "the export is read-only"));
        }
        let able = match command {
            Command::TRIM => flags.contains(TransmissionFlags::SEND_TRIM),
            Command::WRITE_ZEROES => flags.contains(TransmissionFlags::SEND_WRITE_ZEROES),
            _ => true,
        };
        if able {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Unsupported, format!("the server has no {command}")))
        }
    }
}

fn read_header(connection: &Connection, offset: GuestOffset, length: u32) -> RequestHeader {
    let whole = connection.structured && connection.flags.contains(TransmissionFlags::SEND_DF);
    RequestHeader { flags: if whole { REQUEST_DF } else { 0 }, ..header(Command::READ, offset, length) }
}

fn header(command: Command, offset: GuestOffset, length: u32) -> RequestHeader {
    // The connection gives the cookie.
    RequestHeader { flags: 0, command, cookie: Cookie(0), offset: offset.0, length }
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::InvalidRequest, what)
}

fn mismatch() -> Error {
    Error::new(ErrorKind::Protocol, "an answer of another kind than the request")
}
