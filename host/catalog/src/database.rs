//! The two engines behind one face: opening, migrating, transactions. All that differs between SQLite and
//! PostgreSQL is in this file.
//!
//! SQLite has one writer whatever one does, so it gets a write pool of a single connection (waiting happens in an
//! orderly queue here, not by polling the file's lock) beside a pool of readers, which WAL keeps out of each
//! other's way. A write begins IMMEDIATE: a transaction that reads first and asks for the lock later can fail
//! without a chance to wait when another process (a second `tidemark`) wrote in between.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Postgres, SqlSafeStr as _, SqlStr, Sqlite};

use crate::error::{Error, ErrorKind, Result};
use crate::statement::{Row, Statement, Value};

const MIGRATIONS: [(i64, &str, &str); 6] = [
    (1, "catalog", include_str!("../../../migrations/0001_catalog.sql")),
    (2, "chains", include_str!("../../../migrations/0002_chains.sql")),
    (3, "verification", include_str!("../../../migrations/0003_verification.sql")),
    (4, "policies and flows", include_str!("../../../migrations/0004_policies_and_flows.sql")),
    (5, "repository disks", include_str!("../../../migrations/0005_repository_disks.sql")),
    (6, "plugin platform", include_str!("../../../migrations/0006_plugin_platform.sql")),
];

/// How long a writer waits for another process's lock, and a task for a connection.
const WAIT: Duration = Duration::from_secs(20);
const SQLITE_READERS: u32 = 8;
const POSTGRES_CONNECTIONS: u32 = 16;

#[derive(Debug, Clone)]
pub(crate) enum Database {
    Sqlite { write: SqlitePool, read: SqlitePool },
    Postgres(PgPool),
}

/// A transaction; dropped without [`Transaction::commit`] it never happened.
pub(crate) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Database {
    pub(crate) async fn open(url: &str) -> Result<Self> {
        if url.starts_with("sqlite:") {
            Self::open_sqlite(url).await
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            Self::open_postgres(url).await
        } else {
            // The URL may carry a password, so only its scheme is repeated.
            let scheme = url.split(':').next().unwrap_or_default();
            Err(Error::invalid(format!(
                "a catalog URL begins with sqlite:// or postgres://, not '{scheme}:'"
            )))
        }
    }

    async fn open_sqlite(url: &str) -> Result<Self> {
        let invalid = |source| Error::from_sqlx("the catalog's sqlite:// URL cannot be read", source);
        let options = SqliteConnectOptions::from_str(url).map_err(invalid)?;
        if url.contains(":memory:") || url.contains("mode=memory") {
            // Each connection would see a database of its own.
            return Err(Error::invalid("a catalog in memory is not supported: name a file"));
        }
        let file = options.get_filename().display().to_string();
        let lock = open_alone(options.get_filename().to_owned()).await.map_err(|source| {
            let context = format!("the catalog file {file} cannot be opened");
            Error::with_source(ErrorKind::Unavailable, context, source)
        })?;
        let options = options
            .journal_mode(SqliteJournalMode::Wal)
            // A recorded step must be on disk before its effect begins; WAL with NORMAL may forget it.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(WAIT);
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(WAIT)
            .connect_with(options.clone())
            .await
            .map_err(|source| {
                Error::from_sqlx(format!("the catalog file {file} cannot be opened"), source)
            })?;
        migrator().run(&write).await.map_err(|source| unmigrated(&file, source))?;
        drop(lock);
        let read = SqlitePoolOptions::new()
            .max_connections(SQLITE_READERS)
            .acquire_timeout(WAIT)
            .connect_lazy_with(options.pragma("query_only", "ON"));
        Ok(Self::Sqlite { write, read })
    }

    async fn open_postgres(url: &str) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|source| Error::from_sqlx("the catalog's postgres:// URL cannot be read", source))?
            .application_name("tidemark");
        let place = format!("{}/{}", options.get_host(), options.get_database().unwrap_or_default());
        let pool = PgPoolOptions::new()
            .max_connections(POSTGRES_CONNECTIONS)
            .acquire_timeout(WAIT)
            .connect_with(options)
            .await
            .map_err(|source| Error::from_sqlx(format!("PostgreSQL at {place} cannot be reached"), source))?;
        migrator().run(&pool).await.map_err(|source| unmigrated(&place, source))?;
        Ok(Self::Postgres(pool))
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        match self {
            // They are closed one after the other.
            Self::Sqlite { write, read } => write.is_closed() || read.is_closed(),
            Self::Postgres(pool) => pool.is_closed(),
        }
    }

    /// A transaction that may change something.
    pub(crate) async fn begin(&self) -> Result<Transaction> {
        match self {
            Self::Sqlite { write, .. } => write.begin_with("BEGIN IMMEDIATE").await.map(Transaction::Sqlite),
            Self::Postgres(pool) => begin_postgres(pool, None).await.map(Transaction::Postgres),
        }
        .map_err(|source| Error::from_sqlx("a transaction cannot begin", source))
    }

    /// A transaction that only reads, all of it at one moment.
    pub(crate) async fn begin_read(&self) -> Result<Transaction> {
        match self {
            Self::Sqlite { read, .. } => read.begin().await.map(Transaction::Sqlite),
            Self::Postgres(pool) => {
                let read_only = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                begin_postgres(pool, Some(read_only)).await.map(Transaction::Postgres)
            }
        }
        .map_err(|source| Error::from_sqlx("a transaction cannot begin", source))
    }

    /// What ends a sub-select that picks the row to claim: PostgreSQL runs claims side by side and must pass over
    /// the row another one is just taking; SQLite runs them one after another.
    pub(crate) fn skip_locked(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "",
            Self::Postgres(_) => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// One reading statement.
    pub(crate) async fn fetch_all(&self, statement: Statement) -> Result<Vec<Row>> {
        match self {
            Self::Sqlite { read, .. } => fetch_sqlite(statement, read).await,
            Self::Postgres(pool) => fetch_postgres(statement, pool).await,
        }
    }

    /// One reading statement with at most one row.
    pub(crate) async fn fetch_optional(&self, statement: Statement) -> Result<Option<Row>> {
        Ok(self.fetch_all(statement).await?.into_iter().next())
    }

    /// One writing statement with its rows (`RETURNING`), durable on return.
    pub(crate) async fn write_returning(&self, statement: Statement) -> Result<Vec<Row>> {
        let mut transaction = self.begin().await?;
        let rows = transaction.fetch_all(statement).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    /// One writing statement, durable on return; answers with the number of rows it changed.
    pub(crate) async fn write(&self, statement: Statement) -> Result<u64> {
        let mut transaction = self.begin().await?;
        let changed = transaction.execute(statement).await?;
        transaction.commit().await?;
        Ok(changed)
    }
}

impl Transaction {
    pub(crate) async fn fetch_all(&mut self, statement: Statement) -> Result<Vec<Row>> {
        match self {
            Self::Sqlite(transaction) => fetch_sqlite(statement, &mut **transaction).await,
            Self::Postgres(transaction) => fetch_postgres(statement, &mut **transaction).await,
        }
    }

    pub(crate) async fn fetch_optional(&mut self, statement: Statement) -> Result<Option<Row>> {
        // All rows are taken, so that a statement with RETURNING has run to its end.
        Ok(self.fetch_all(statement).await?.into_iter().next())
    }

    /// Answers with the number of rows changed.
    pub(crate) async fn execute(&mut self, statement: Statement) -> Result<u64> {
        let sql = sql_of(&statement);
        match self {
            Self::Sqlite(transaction) => bound_sqlite(sql, statement.values)
                .execute(&mut **transaction)
                .await
                .map(|done| done.rows_affected()),
            Self::Postgres(transaction) => bound_postgres(sql, statement.values)
                .execute(&mut **transaction)
                .await
                .map(|done| done.rows_affected()),
        }
        .map_err(failed)
    }

    /// The next number of a counter, taken until the transaction ends.
    pub(crate) async fn next_number(&mut self, counter: &'static str) -> Result<i64> {
        let taken = Statement::new("UPDATE counters SET value = value + 1 WHERE name = $1 RETURNING value");
        let row = self.fetch_optional(taken.bind(counter)).await?;
        row.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("the counter '{counter}' is missing")))?
            .integer("value")
    }

    pub(crate) async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await,
            Self::Postgres(transaction) => transaction.commit().await,
        }
        .map_err(|source| Error::from_sqlx("a transaction cannot be committed", source))
    }
}

/// Begins in a task of its own, which ends even where the caller is dropped meanwhile: sqlx puts a connection that was
/// left inside its BEGIN back into the pool with the transaction open, and every later user of it fails.
async fn begin_postgres(
    pool: &PgPool,
    statement: Option<&'static str>,
) -> sqlx::Result<sqlx::Transaction<'static, Postgres>> {
    let pool = pool.clone();
    let beginning = tokio::spawn(async move {
        match statement {
            Some(statement) => pool.begin_with(statement).await,
            None => pool.begin().await,
        }
    });
    beginning.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// Lets one opening at a time through, until the answer is dropped, and sees to it that the database file exists.
///
/// sqlx takes no lock for SQLite's migrations, so two processes would both apply the first one. The lock is a file
/// of its own: a process that closes any handle on a database file loses SQLite's locks on it. For the same reason
/// the database file is touched only when it is new, and so open nowhere. It is created here for its owner alone
/// (SQLite gives its companions the same rights), as it will hold sealed secrets and digests of tokens.
async fn open_alone(database: PathBuf) -> std::io::Result<File> {
    let opening = tokio::task::spawn_blocking(move || {
        let mut options = OpenOptions::new();
        options.write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut name = database.clone().into_os_string();
        name.push(".lock");
        let lock = options.clone().create(true).truncate(false).open(name)?;
        lock.lock()?;
        match options.create_new(true).open(database) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(lock),
        }
    });
    opening.await.map_err(std::io::Error::other)?
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.map(|(version, name, sql)| {
        let sql = SqlStr::from_static(sql);
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.into())
}

fn unmigrated(place: &str, source: sqlx::migrate::MigrateError) -> Error {
    use sqlx::migrate::MigrateError;
    let context = format!("the catalog {place} cannot be brought to this version's schema");
    match source {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
            Error::from_sqlx(context, source)
        }
        MigrateError::VersionMissing(version) => Error::new(
            ErrorKind::Corrupt,
            format!("the catalog {place} has schema version {version}: a newer Tidemark wrote it"),
        ),
        source => Error::with_source(ErrorKind::Corrupt, context, source),
    }
}

fn failed(source: sqlx::Error) -> Error {
    Error::from_sqlx("the database refused a statement", source)
}

fn sql_of(statement: &Statement) -> SqlStr {
    AssertSqlSafe(statement.sql.clone().into_owned()).into_sql_str()
}

fn bound_sqlite(
    sql: SqlStr,
    values: Vec<Value>,
) -> sqlx::query::Query<'static, Sqlite, sqlx::sqlite::SqliteArguments> {
    values.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Value::Text(text) => query.bind(text),
        Value::Integer(number) => query.bind(number),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

fn bound_postgres(
    sql: SqlStr,
    values: Vec<Value>,
) -> sqlx::query::Query<'static, Postgres, sqlx::postgres::PgArguments> {
    values.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Value::Text(text) => query.bind(text),
        Value::Integer(number) => query.bind(number),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

async fn fetch_sqlite<'c>(
    statement: Statement,
    executor: impl sqlx::Executor<'c, Database = Sqlite>,
) -> Result<Vec<Row>> {
    let sql = sql_of(&statement);
    let rows = bound_sqlite(sql, statement.values).fetch_all(executor).await.map_err(failed)?;
    Ok(rows.into_iter().map(Row::Sqlite).collect())
}

async fn fetch_postgres<'c>(
    statement: Statement,
    executor: impl sqlx::Executor<'c, Database = Postgres>,
) -> Result<Vec<Row>> {
    let sql = sql_of(&statement);
    let rows = bound_postgres(sql, statement.values).fetch_all(executor).await.map_err(failed)?;
    Ok(rows.into_iter().map(Row::Postgres).collect())
}
