//! Reads ranges of a file over HTTPS, as an `http-range` transport describes: the host's own reading, never a
//! guest's, under the same checks of address and trust.
//!
//! Every answer must be exactly the range that was asked for, of a file of the size first seen: a server that
//! ignores ranges or a file that changed its size ends the reading for good.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_RANGE, HOST, HeaderName, HeaderValue, RANGE};
use hyper::{Request, Uri};
use tidemark_model::{ByteLen, Extent};

use super::{Answer, Bounds, HttpClient, HttpFailure, Origin, Trust};
use crate::connector::HttpSource;
use crate::error::{Error, ErrorKind};

const OPERATION: &str = "read-range";
/// Longer ranges are not asked for at once.
const MAX_RANGE: usize = 8 << 20;
const TIMEOUT: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 5;
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// A file that is read by ranges, from several tasks at a time.
pub struct RangeReader {
    origin: Origin,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    bounds: Bounds,
    size: ByteLen,
    /// Idle clients, each with its own connection.
    clients: Mutex<Vec<HttpClient>>,
}

impl RangeReader {
    /// Finds out the file's size.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the server does not answer ranges, [`ErrorKind::Auth`] where it refuses or is
    /// not who it should be, [`ErrorKind::Unavailable`] where it cannot be reached.
    pub async fn open(source: &HttpSource) -> Result<Self, Error> {
        let HttpSource { url, headers, thumbprint, networks } = source;
        let invalid = |what: &str| Error::new(ErrorKind::Invalid, OPERATION, format!("{url}: {what}"));
        let uri: Uri = url.parse().map_err(|_| invalid("is no URL"))?;
        let host = uri.host().ok_or_else(|| invalid("names no host"))?.trim_matches(['[', ']']).to_owned();
        if uri.scheme_str() != Some("https") {
            return Err(invalid("is not https"));
        }
        let trust = match thumbprint {
            Some(text) => Trust::thumbprint(text).ok_or_else(|| invalid("has a thumbprint that is none"))?,
            None => Trust::System,
        };
        let headers = headers
            .iter()
            .map(|(name, value)| {
                let name = name.parse::<HeaderName>().map_err(|_| invalid("has a header that is none"))?;
                let value = HeaderValue::from_str(value).map_err(|_| invalid("has a header that is none"))?;
                Ok((name, value))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let mut reader = Self {
            origin: Origin { host, port: uri.port_u16().unwrap_or(443), trust: Some(trust) },
            uri,
            headers,
            bounds: Bounds { networks: networks.clone(), timeout: TIMEOUT, response_bytes: MAX_RANGE },
            size: ByteLen(0),
            clients: Mutex::default(),
        };
        let (_, total) = reader.fetch(0, 1).await?;
        reader.size = ByteLen(total);
        Ok(reader)
    }

    /// The file's size.
    #[must_use]
    pub fn size(&self) -> ByteLen {
        self.size
    }

    /// Exactly the bytes of `extent`, of at most 8 MiB.
    ///
    /// # Errors
    /// As [`RangeReader::open`]; [`ErrorKind::Corrupt`] where the file changed its size.
    pub async fn read(&self, extent: Extent) -> Result<Vec<u8>, Error> {
        if extent.length.0 == 0 || extent.length.0 > MAX_RANGE as u64 || extent.end().0 > self.size.0 {
            let message = format!("{} bytes at {} of {}", extent.length.0, extent.offset.0, self.size.0);
            return Err(Error::new(ErrorKind::Invalid, OPERATION, message));
        }
        let mut backoff = FIRST_BACKOFF;
        for _ in 1..ATTEMPTS {
            match self.fetch(extent.offset.0, extent.length.0).await {
                Err(error) if error.is_retryable() => tokio::time::sleep(backoff).await,
                done => return self.same_file(done?),
            }
            backoff *= 2;
        }
        self.same_file(self.fetch(extent.offset.0, extent.length.0).await?)
    }

    fn same_file(&self, (bytes, total): (Vec<u8>, u64)) -> Result<Vec<u8>, Error> {
        if total == self.size.0 {
            return Ok(bytes);
        }
        let message = format!("{} has {total} bytes now, it had {}", self.uri, self.size.0);
        Err(Error::new(ErrorKind::Corrupt, OPERATION, message))
    }

    /// The bytes and the size of the whole file.
    async fn fetch(&self, offset: u64, length: u64) -> Result<(Vec<u8>, u64), Error> {
        let target = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(target)
            .body(Full::new(Bytes::new()))
            .map_err(|error| Error::new(ErrorKind::Invalid, OPERATION, format!("{}: {error}", self.uri)))?;
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let values =
            [(HOST, authority.to_owned()), (RANGE, format!("bytes={offset}-{}", offset + length - 1))];
        for (name, value) in values {
            let value = HeaderValue::from_str(&value)
                .map_err(|error| Error::new(ErrorKind::Invalid, OPERATION, error.to_string()))?;
            request.headers_mut().insert(name, value);
        }
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        let mut client =
            self.clients.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let answer =
            client.send(self.origin.clone(), request, &self.bounds).await.map_err(|e| self.failed(&e))?;
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        self.check(answer, offset, length)
    }

    fn check(&self, answer: Answer, offset: u64, length: u64) -> Result<(Vec<u8>, u64), Error> {
        let error = |kind, what: String| Error::new(kind, OPERATION, format!("{}: {what}", self.uri));
        match answer.status {
            206 => {}
            200 => return Err(error(ErrorKind::Unsupported, "the server does not answer ranges".to_owned())),
            401 | 403 => return Err(error(ErrorKind::Auth, format!("refused with HTTP {}", answer.status))),
            404 => return Err(error(ErrorKind::NotFound, "is not there".to_owned())),
            status if status >= 500 => return Err(error(ErrorKind::Unavailable, format!("HTTP {status}"))),
            status => return Err(error(ErrorKind::Corrupt, format!("HTTP {status}"))),
        }
        let range =
            answer.headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).and_then(content_range);
        match range {
            Some((first, last, total)) if first == offset && last == offset + length - 1 && total > last => {
                if answer.body.len() as u64 != length {
                    return Err(error(ErrorKind::Unavailable, "the answer is cut short".to_owned()));
                }
                Ok((answer.body, total))
            }
            _ => Err(error(ErrorKind::Corrupt, "the answer is for another range".to_owned())),
        }
    }

    fn failed(&self, failure: &HttpFailure) -> Error {
        let (kind, what) = match failure {
            HttpFailure::Forbidden(why) => (ErrorKind::Denied, why.clone()),
            HttpFailure::Unavailable(why) => (ErrorKind::Unavailable, why.clone()),
            HttpFailure::Untrusted(why) => (ErrorKind::Auth, why.clone()),
            HttpFailure::TooLarge(bytes) => {
                (ErrorKind::Corrupt, format!("an answer of more than {bytes} bytes"))
            }
            HttpFailure::Timeout(after) => {
                (ErrorKind::Timeout, format!("no answer within {} s", after.as_secs()))
            }
        };
        Error::new(kind, OPERATION, format!("{}: {what}", self.uri))
    }
}

/// `bytes FIRST-LAST/TOTAL` (RFC 9110, section 14.4).
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn only_a_whole_content_range_counts() {
        assert_eq!(content_range("bytes 0-0/1048576"), Some((0, 0, 1_048_576)));
        for odd in ["bytes */10", "bytes 0-1/*", "0-1/2", "bytes 1-/2", "bytes a-b/c"] {
            assert_eq!(content_range(odd), None, "{odd}");
        }
    }
}
