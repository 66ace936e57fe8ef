//! What the catalog promises, held against both engines: every behaviour runs once on SQLite and once on a
//! PostgreSQL that this binary starts for itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test they are the verdict")]

mod backups;
mod chain_changes;
mod chains;
mod configuration;
mod engines;
mod flows;
mod jobs;
mod leases;
mod plugins;
mod postgres;
mod schema;
mod trails;
mod verifications;
mod year;

/// Declares a test a behaviour and engine; a behaviour is `async fn name(fixture: Fixture)`.
macro_rules! on_both_engines {
    ($($behaviour:ident),* $(,)?) => {$(
        mod $behaviour {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$behaviour(crate::engines::Fixture::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$behaviour(crate::engines::Fixture::postgres().await).await;
            }
        }
    )*};
}
pub(crate) use on_both_engines;
