//! A query as text and values, and a row as an answer, neither of which knows the engine. Every query of the crate
//! is written once in these terms; `database.rs` hands it to the driver in use.
//!
//! Three column types exist (TEXT, BIGINT and, for components, BYTEA), so three kinds of value do.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use tidemark_model::{
    BackupId, BackupStatus, BackupType, ConnectorId, FlowId, JobId, JobKind, JobState, RepositoryId, TokenId,
    UtcMillis, VerifyLevel, VmId,
};

use crate::error::{Error, ErrorKind, Result};

/// What a `$n` stands for. The type is kept for a missing value too, as PostgreSQL wants to know it.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
    Bytes(Vec<u8>),
}

/// SQL with `$1`, `$2`, … and what they stand for.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) sql: Cow<'static, str>,
    pub(crate) values: Vec<Value>,
}

impl Statement {
    pub(crate) fn new(sql: impl Into<Cow<'static, str>>) -> Self {
        Self { sql: sql.into(), values: Vec::new() }
    }

    /// The value of the next `$n`.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Adds a piece of SQL that needs one value; `{}` in it becomes that value's placeholder.
    pub(crate) fn and(mut self, piece: &str, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        let placeholder = format!("${}", self.values.len());
        self.sql.to_mut().push_str(&piece.replace("{}", &placeholder));
        self
    }

    /// As [`Statement::and`] where there is a value, else nothing.
    pub(crate) fn and_if<V: Into<Value>>(self, piece: &str, value: Option<V>) -> Self {
        match value {
            Some(value) => self.and(piece, value),
            None => self,
        }
    }

    /// Adds SQL without values.
    pub(crate) fn then(mut self, piece: &str) -> Self {
        self.sql.to_mut().push_str(piece);
        self
    }

    /// Adds `(…, …)` of all `values`, which must not be empty.
    pub(crate) fn in_list<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        let mut separator = '(';
        for value in values {
            self.values.push(value.into());
            let placeholder = format!("{separator}${}", self.values.len());
            self.sql.to_mut().push_str(&placeholder);
            separator = ',';
        }
        self.then(")")
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(Some(value))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Integer(Some(i64::from(value)))
    }
}

impl From<UtcMillis> for Value {
    fn from(value: UtcMillis) -> Self {
        Self::Integer(Some(value.0))
    }
}

impl From<Option<UtcMillis>> for Value {
    fn from(value: Option<UtcMillis>) -> Self {
        Self::Integer(value.map(|at| at.0))
    }
}

impl From<Option<i64>> for Value {
    fn from(value: Option<i64>) -> Self {
        Self::Integer(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Self::Text(Some(value.clone()))
    }
}

impl From<Option<&str>> for Value {
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(str::to_owned))
    }
}

macro_rules! text_of_id {
    ($($id:ty),*) => {$(
        impl From<$id> for Value {
            fn from(id: $id) -> Self {
                Self::Text(Some(id.to_string()))
            }
        }

        impl From<Option<$id>> for Value {
            fn from(id: Option<$id>) -> Self {
                Self::Text(id.map(|id| id.to_string()))
            }
        }
    )*};
}
text_of_id!(BackupId, ConnectorId, FlowId, JobId, RepositoryId, TokenId, VmId);

macro_rules! text_of_word {
    ($($word:ty),*) => {$(
        impl From<$word> for Value {
            fn from(word: $word) -> Self {
                Self::Text(Some(word.as_str().to_owned()))
            }
        }
    )*};
}
text_of_word!(BackupStatus, BackupType, JobKind, JobState, VerifyLevel);

/// One row of an answer. Every getter fails with `Corrupt` where the column does not hold what it must.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(crate) fn opt_text(&self, column: &'static str) -> Result<Option<String>> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
        .map_err(|source| unreadable(column, source))
    }

    pub(crate) fn opt_integer(&self, column: &'static str) -> Result<Option<i64>> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
        .map_err(|source| unreadable(column, source))
    }

    pub(crate) fn bytes(&self, column: &'static str) -> Result<Vec<u8>> {
        let bytes: Option<Vec<u8>> = match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
        .map_err(|source| unreadable(column, source))?;
        bytes.ok_or_else(|| missing(column))
    }

    pub(crate) fn text(&self, column: &'static str) -> Result<String> {
        self.opt_text(column)?.ok_or_else(|| missing(column))
    }

    pub(crate) fn integer(&self, column: &'static str) -> Result<i64> {
        self.opt_integer(column)?.ok_or_else(|| missing(column))
    }

    pub(crate) fn flag(&self, column: &'static str) -> Result<bool> {
        Ok(self.integer(column)? != 0)
    }

    /// A number that is never negative.
    pub(crate) fn unsigned<N: TryFrom<i64>>(&self, column: &'static str) -> Result<N> {
        self.opt_unsigned(column)?.ok_or_else(|| missing(column))
    }

    pub(crate) fn opt_unsigned<N: TryFrom<i64>>(&self, column: &'static str) -> Result<Option<N>> {
        let Some(value) = self.opt_integer(column)? else { return Ok(None) };
        N::try_from(value).map(Some).map_err(|_| {
            Error::new(ErrorKind::Corrupt, format!("column {column} holds {value}, which is out of range"))
        })
    }

    pub(crate) fn time(&self, column: &'static str) -> Result<UtcMillis> {
        self.integer(column).map(UtcMillis)
    }

    pub(crate) fn opt_time(&self, column: &'static str) -> Result<Option<UtcMillis>> {
        Ok(self.opt_integer(column)?.map(UtcMillis))
    }

    /// An id or a word with a textual form.
    pub(crate) fn parsed<T>(&self, column: &'static str) -> Result<T>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        parse(column, &self.text(column)?)
    }

    pub(crate) fn opt_parsed<T>(&self, column: &'static str) -> Result<Option<T>>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.opt_text(column)?.map(|text| parse(column, &text)).transpose()
    }
}

fn parse<T>(column: &'static str, text: &str) -> Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|source| unreadable(column, source))
}

fn unreadable(column: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Corrupt, format!("column {column} cannot be read"), source)
}

fn missing(column: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("column {column} is empty"))
}
