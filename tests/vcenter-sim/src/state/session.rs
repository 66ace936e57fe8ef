//! Sessions: made by a login, carried by the cookie, ended by logout, idleness or a fault switch.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use uuid::Uuid;

use crate::soap::value::Obj;

/// One session.
#[derive(Debug, Clone)]
pub struct Session {
    /// What the cookie carries; a secret.
    pub cookie: String,
    /// What the API calls it.
    pub key: String,
    user: String,
    login_time: OffsetDateTime,
    last_active: OffsetDateTime,
    last_seen: Instant,
    calls: u64,
}

impl Session {
    /// The `UserSession` of the API.
    #[must_use]
    pub fn describe(&self) -> Obj {
        Obj::new("UserSession")
            .set("key", self.key.as_str())
            .set("userName", self.user.as_str())
            .set("fullName", self.user.as_str())
            .set("loginTime", self.login_time)
            .set("lastActiveTime", self.last_active)
            .set("locale", "en")
            .set("messageLocale", "en")
            .set("extensionSession", false)
            .set("ipAddress", "127.0.0.1")
            .set("userAgent", "")
            .set("callCount", self.calls)
    }
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    idle_limit: Duration,
    open: Vec<Session>,
}

impl Sessions {
    /// No sessions; each will end after `idle_limit` without a call.
    #[must_use]
    pub fn new(idle_limit: Duration) -> Self {
        Self { idle_limit, open: Vec::new() }
    }

    /// Opens a session for a user whose password was right.
    pub fn login(&mut self, user: &str) -> Session {
        let now = OffsetDateTime::now_utc();
        let session = Session {
            cookie: Uuid::new_v4().simple().to_string(),
            key: Uuid::new_v4().to_string(),
            user: user.to_owned(),
            login_time: now,
            last_active: now,
            last_seen: Instant::now(),
            calls: 0,
        };
        self.open.push(session.clone());
        session
    }

    /// The key of the live session that a cookie belongs to; it counts as used.
    pub fn touch(&mut self, cookie: &str) -> Option<String> {
        let limit = self.idle_limit;
        self.open.retain(|session| session.last_seen.elapsed() < limit);
        let session = self.open.iter_mut().find(|session| session.cookie == cookie)?;
        session.last_seen = Instant::now();
        session.last_active = OffsetDateTime::now_utc();
        session.calls += 1;
        Some(session.key.clone())
    }

    /// The session of that key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Session> {
        self.open.iter().find(|session| session.key == key)
    }

    /// Ends a session.
    pub fn end(&mut self, key: &str) {
        self.open.retain(|session| session.key != key);
    }

    /// The sessions that are open.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.open.iter()
    }
}
