//! An HTTP server that answers each connection with the next entry of a script, and remembers what it was asked.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What to do with one connection.
#[derive(Clone)]
pub(crate) enum Turn {
    /// Reads the request and writes these bytes.
    Say(Vec<u8>),
    /// Reads the request and writes these bytes one by one, with a pause before each.
    Drip(Vec<u8>, Duration),
    /// Writes a head and then a body without an end, for as long as somebody reads.
    Flood(&'static str),
    /// Reads the request and says nothing until the server ends.
    Silence,
    /// Closes with unread bytes, which resets the connection.
    Reset,
}

/// A whole answer.
pub(crate) fn answer(status: &str, headers: &[&str], body: &str) -> Turn {
    let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    Turn::Say(format!("{text}\r\n{body}").into_bytes())
}

/// What a client sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The value of a header that is there once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} is there twice: {self:?}");
        value
    }
}

/// A server on a free port; it ends with the value.
pub(crate) struct Server {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    thread: Option<JoinHandle<()>>,
    end: Option<mpsc::Sender<()>>,
}

impl Server {
    pub(crate) fn start(script: Vec<Turn>) -> Self {
        Self::with_tls(script, None)
    }

    pub(crate) fn with_tls(script: Vec<Turn>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let (end, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            for turn in script {
                let (socket, _) = listener.accept().unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                // The last connection of a dropped server, which only wakes it.
                if ended.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                    return;
                }
                match &tls {
                    None => serve(socket, turn, &seen, &ended),
                    Some(config) => {
                        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                        serve(StreamOwned::new(connection, socket), turn, &seen, &ended);
                    }
                }
            }
        });
        Self { port, requests, thread: Some(thread), end: Some(end) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn only_request(&self) -> Request {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests[0].clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let outcome = self.thread.take().unwrap().join();
        if !thread::panicking() {
            outcome.unwrap();
        }
    }
}

/// A stream whose socket can be seen.
trait Stream: Read + Write {
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for StreamOwned<ServerConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

fn serve(mut stream: impl Stream, turn: Turn, seen: &Mutex<Vec<Request>>, ended: &mpsc::Receiver<()>) {
    if matches!(turn, Turn::Reset) {
        stream.socket().peek(&mut [0]).unwrap();
        return;
    }
    // A client that does not believe the certificate ends before it has asked for anything.
    let Some(request) = read_request(&mut stream) else { return };
    seen.lock().unwrap().push(request);
    match turn {
        Turn::Say(bytes) => {
            let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
            let _ = stream.socket().shutdown(Shutdown::Write);
            // Closing before the client has would reset what it has not read yet.
            let _ = stream.read(&mut [0; 64]);
        }
        Turn::Drip(bytes, pause) => {
            for byte in bytes {
                thread::sleep(pause);
                if stream.write_all(&[byte]).is_err() {
                    break;
                }
            }
        }
        Turn::Flood(head) => {
            let _ = stream.write_all(head.as_bytes());
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        }
        Turn::Silence => {
            let _ = ended.recv();
        }
        Turn::Reset => {}
    }
}

fn read_request(stream: &mut impl Read) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        (!line.is_empty()).then(|| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut request = Request { line: first, headers, body: Vec::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}
