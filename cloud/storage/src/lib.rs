//! What the cloud keeps: events, PoPs, bundles, artifacts and the audit log.
//!
//! The only crate that names a database: SQLite in WAL mode with `synchronous = FULL`, so that what was committed
//! survives a power cut. All SQL is in `sql.rs` and `migrations/`. One connection writes, a few read; SQLite allows no
//! more than one writer anyway, and waiting in our own pool is fair where its busy handler is not.
//!
//! | module | keeps |
//! |---|---|
//! | [`events`] | events, once per id, in the transaction that moves their PoP's offset |
//! | [`erasures`] | who was erased, so that nothing of them comes back |
//! | [`pops`] | PoPs, their offsets, the latest report of each node |
//! | [`bundles`] | signed manifests under revisions that only grow |
//! | [`rollouts`] | how far each bundle has come: tried on canaries, promoted, stopped |
//! | [`artifacts`] | content-addressed files, verified when written and when read |
//! | [`identities`] | one-time tokens for nodes that enrol, and who was revoked |
//! | [`audit`] | who changed what |

pub mod artifacts;
pub mod audit;
pub mod bundles;
pub mod config;
pub mod erasures;
pub mod error;
pub mod events;
pub mod identities;
pub mod pops;
pub mod rollouts;
mod sql;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{SqlSafeStr, Sqlite, Transaction};

pub use artifacts::{Artifacts, Upload};
pub use audit::Change;
pub use bundles::{Draft, StoredBundle};
pub use config::Config;
pub use error::{AppendError, EnrolError, StorageError};
pub use events::{Appended, Filter};
pub use identities::Enrolment;

/// The database's file, in the folder that [`Storage::open`] is given.
pub const DATABASE_FILE: &str = "cloud.db";
/// The artifacts' folder, in the folder that [`Storage::open`] is given.
pub const ARTIFACTS_FOLDER: &str = "artifacts";

const PAGE_BYTES: u64 = 4096;
/// Memory of the writer's page cache, in KiB (negative: SQLite's sign for KiB instead of pages).
const WRITER_CACHE: &str = "-65536";
/// Pages in the write-ahead log before it is folded into the database.
const CHECKPOINT_PAGES: &str = "4000";
/// What stays of the write-ahead log's file after that, in bytes.
const WAL_BYTES_KEPT: &str = "67108864";

/// The handle. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Storage {
    writer: SqlitePool,
    readers: SqlitePool,
    artifacts: Arc<Artifacts>,
}

impl Storage {
    /// Opens what is in `folder`, creates it if nothing is there, and brings its tables to the present version.
    pub async fn open(folder: &Path, config: &Config) -> Result<Self, StorageError> {
        config.check()?;
        tokio::fs::create_dir_all(folder)
            .await
            .map_err(|e| StorageError::file("create the storage folder", folder, e))?;
        let path = folder.join(DATABASE_FILE);
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .busy_timeout(Duration::from_millis(config.busy_timeout_ms))
            .foreign_keys(true);
        let writing = options
            .clone()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", WRITER_CACHE)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .pragma("journal_size_limit", WAL_BYTES_KEPT)
            // What was erased is overwritten, and not only let go.
            .pragma("secure_delete", "ON")
            .pragma("max_page_count", (config.database_bytes_max / PAGE_BYTES).to_string());
        let writer = pool(config, 1).connect_with(writing).await.map_err(StorageError::database("open"))?;
        migrations().run(&writer).await.map_err(|source| StorageError::Migration { path, source })?;
        let readers = pool(config, config.readers)
            .connect_with(options.read_only(true))
            .await
            .map_err(StorageError::database("open for reading"))?;
        let artifacts = Artifacts::open(&folder.join(ARTIFACTS_FOLDER), config).await?;
        Ok(Self { writer, readers, artifacts: Arc::new(artifacts) })
    }

    /// The content-addressed files.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Asks the database a trivial question, so that a readiness check does not lie.
    pub async fn ping(&self) -> Result<(), StorageError> {
        sqlx::query(sql::PING).execute(&self.readers).await.map(drop).map_err(StorageError::database("ping"))
    }

    /// Waits for what runs, then closes every connection. Idempotent.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Takes the write lock at once: a transaction that first reads and then wants to write can fail in the middle.
    async fn write(&self, operation: &'static str) -> Result<Transaction<'static, Sqlite>, StorageError> {
        self.writer.begin_with(sql::BEGIN).await.map_err(StorageError::database(operation))
    }
}

fn pool(config: &Config, connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(Duration::from_millis(config.acquire_timeout_ms))
}

fn migrations() -> Migrator {
    let step = |number, name: &'static str, sql: &'static str| {
        Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        step(1, "start", include_str!("../migrations/0001_start.sql")),
        step(2, "identities", include_str!("../migrations/0002_identities.sql")),
        step(3, "rollouts", include_str!("../migrations/0003_rollouts.sql")),
        step(4, "losses", include_str!("../migrations/0004_losses.sql")),
        step(5, "erasures", include_str!("../migrations/0005_erasures.sql")),
    ])
}

/// SQLite's integers are signed. Ours are counts and times that stay far below 2^63; a larger one is refused by saturating
/// to a value that no row has.
fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
