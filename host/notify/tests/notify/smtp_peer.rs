//! An SMTP server that keeps what it is given, and misbehaves where it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How the server behaves.
#[derive(Clone)]
pub(crate) struct Manners {
    /// TLS from the first byte.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// TLS from STARTTLS on.
    pub(crate) starttls: Option<Arc<ServerConfig>>,
    /// Offered beside that, in every answer to EHLO.
    pub(crate) offers: &'static [&'static str],
    /// Said in place of the usual to a command that begins so; `.` is the end of a mail, the empty text the greeting.
    pub(crate) instead: &'static [(&'static str, &'static str)],
    /// A pause before each byte that is written.
    pub(crate) drip: Option<Duration>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            tls: None,
            starttls: None,
            offers: &["PIPELINING", "AUTH LOGIN PLAIN"],
            instead: &[],
            drip: None,
        }
    }
}

/// A mail as it arrived, dots undone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) data: Vec<u8>,
}

#[derive(Debug, Default)]
struct Seen {
    commands: Vec<String>,
    mails: Vec<Mail>,
}

/// A server on a free port; it ends with the value.
pub(crate) struct Server {
    pub(crate) port: u16,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
    end: Option<mpsc::Sender<()>>,
}

impl Server {
    pub(crate) fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let kept = Arc::clone(&seen);
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            loop {
                let (socket, _) = listener.accept().unwrap();
                if ended.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                    return;
                }
                socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                // A client may end whenever it likes.
                let _ = serve(socket, &manners, &kept);
            }
        });
        Self { port, seen, thread: Some(thread), end: Some(end) }
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        self.seen.lock().unwrap().commands.clone()
    }

    pub(crate) fn mails(&self) -> Vec<Mail> {
        self.seen.lock().unwrap().mails.clone()
    }

    pub(crate) fn only_mail(&self) -> Mail {
        let mails = self.mails();
        assert_eq!(mails.len(), 1, "{mails:?}");
        mails[0].clone()
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

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn secured(socket: TcpStream, config: &Arc<ServerConfig>) -> Box<dyn Stream> {
    Box::new(StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), socket))
}

fn serve(socket: TcpStream, manners: &Manners, seen: &Mutex<Seen>) -> Option<()> {
    let stream = match &manners.tls {
        Some(config) => secured(socket.try_clone().ok()?, config),
        None => Box::new(socket.try_clone().ok()?) as Box<dyn Stream>,
    };
    let mut talk =
        Talk { stream: BufReader::new(stream), manners, seen, mail: Mail::default(), secure: false };
    talk.say("", "220 mx.example.com ready")?;
    loop {
        if talk.step()? {
            let config = manners.starttls.as_ref()?;
            talk.stream = BufReader::new(secured(socket.try_clone().ok()?, config));
            talk.secure = true;
        }
    }
}

struct Talk<'a> {
    stream: BufReader<Box<dyn Stream>>,
    manners: &'a Manners,
    seen: &'a Mutex<Seen>,
    mail: Mail,
    secure: bool,
}

impl Talk<'_> {
    /// One command; whether TLS is to be set up now.
    fn step(&mut self) -> Option<bool> {
        let command = String::from_utf8(self.line()?).unwrap();
        self.seen.lock().unwrap().commands.push(command.clone());
        let verb = command.split([' ', ':']).next().unwrap().to_uppercase();
        match verb.as_str() {
            "EHLO" => {
                let mut offers = self.manners.offers.to_vec();
                if self.manners.starttls.is_some() && !self.secure {
                    offers.push("STARTTLS");
                }
                let lines: Vec<_> = offers.iter().map(|offer| format!("250-{offer}\r\n")).collect();
                self.say(&command, &format!("250-mx.example.com\r\n{}250 HELP", lines.concat()))?;
            }
            "STARTTLS" => {
                self.say(&command, "220 go ahead")?;
                return Some(true);
            }
            "AUTH" if command == "AUTH LOGIN" => self.auth_login()?,
            "AUTH" => self.say(&command, "235 welcome")?,
            "MAIL" => {
                self.mail = Mail { from: argument(&command), ..Mail::default() };
                self.say(&command, "250 ok")?;
            }
            "RCPT" => {
                if self.say(&command, "250 ok") == Some(()) && self.instead(&command).is_none() {
                    self.mail.to.push(argument(&command));
                }
            }
            "DATA" => self.data(&command)?,
            "QUIT" => {
                self.say(&command, "221 bye")?;
                return None;
            }
            _ => self.say(&command, "502 what?")?,
        }
        Some(false)
    }

    fn auth_login(&mut self) -> Option<()> {
        for prompt in ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"] {
            self.say("", prompt)?;
            let line = String::from_utf8(self.line()?).unwrap();
            self.seen.lock().unwrap().commands.push(line);
        }
        self.say("AUTH LOGIN", "235 welcome")
    }

    fn data(&mut self, command: &str) -> Option<()> {
        self.say(command, "354 go on")?;
        if self.instead(command).is_some() {
            return Some(());
        }
        let mut data = Vec::new();
        loop {
            let line = self.line()?;
            match line.as_slice() {
                b"." => break,
                [b'.', rest @ ..] => data.extend_from_slice(rest),
                _ => data.extend_from_slice(&line),
            }
            data.extend_from_slice(b"\r\n");
        }
        if self.instead(".").is_none() {
            let mail = Mail { data, ..std::mem::take(&mut self.mail) };
            self.seen.lock().unwrap().mails.push(mail);
        }
        self.say(".", "250 kept")
    }

    /// A line without its CRLF. Nothing else may end one: what a client sends has no bare CR or LF.
    fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).ok()?;
        let line = line.strip_suffix(b"\n")?;
        let line = line.strip_suffix(b"\r").expect("a bare LF");
        assert!(!line.contains(&b'\r'), "a bare CR");
        assert!(line.len() <= 998, "a line of {} bytes", line.len());
        Some(line.to_vec())
    }

    fn instead(&self, command: &str) -> Option<&'static str> {
        let matches =
            |begin: &str| if begin.is_empty() { command.is_empty() } else { command.starts_with(begin) };
        self.manners.instead.iter().find(|(begin, _)| matches(begin)).map(|(_, reply)| *reply)
    }

    fn say(&mut self, command: &str, usual: &str) -> Option<()> {
        let text = format!("{}\r\n", self.instead(command).unwrap_or(usual));
        let stream = self.stream.get_mut();
        match self.manners.drip {
            None => stream.write_all(text.as_bytes()).ok()?,
            Some(pause) => {
                for byte in text.bytes() {
                    thread::sleep(pause);
                    stream.write_all(&[byte]).ok()?;
                }
            }
        }
        stream.flush().ok()
    }
}

/// What is between the angle brackets.
fn argument(command: &str) -> String {
    command.split_once(":<").unwrap().1.split_once('>').unwrap().0.to_owned()
}
