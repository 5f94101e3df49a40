//! The candidates, each behind the same three verbs, and plain `write` + `fdatasync` as what they are measured against.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::Result;

/// A log.
pub trait LogStore {
    /// Adds entries from index `first` on. They are durable when this returns.
    fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<()>;
    /// Lets go of entries up to `upto`.
    fn purge(&mut self, upto: u64) -> Result<()>;
    /// Entries that can be read.
    fn len(&mut self) -> Result<u64>;
}

/// Opens a log in a folder.
pub type Open = fn(&Path) -> Result<Box<dyn LogStore>>;

/// All candidates by name.
pub fn all() -> Vec<(&'static str, Open)> {
    vec![
        ("fdatasync", Plain::open as Open),
        #[cfg(feature = "raft-log")]
        ("raft-log", on_raft_log::open as Open),
        #[cfg(feature = "raft-engine")]
        ("raft-engine", on_raft_engine::open as Open),
        #[cfg(feature = "fjall")]
        ("fjall", on_fjall::open as Open),
        #[cfg(feature = "redb")]
        ("redb", on_redb::open as Open),
    ]
}

struct Plain(File);

impl Plain {
    fn open(dir: &Path) -> Result<Box<dyn LogStore>> {
        Ok(Box::new(Self(OpenOptions::new().create(true).append(true).open(dir.join("log"))?)))
    }
}

impl LogStore for Plain {
    fn append(&mut self, _first: u64, entries: &[Vec<u8>]) -> Result<()> {
        self.0.write_all(&entries.concat())?;
        Ok(self.0.sync_data()?)
    }
    fn purge(&mut self, _upto: u64) -> Result<()> {
        Ok(())
    }
    fn len(&mut self) -> Result<u64> {
        Ok(self.0.metadata()?.len() / crate::ENTRY_BYTES as u64)
    }
}

#[cfg(feature = "raft-log")]
mod on_raft_log {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::mpsc::{SyncSender, sync_channel};
    use std::time::Duration;

    use anyhow::{Context, Result};
    use raft_log::api::raft_log_writer::RaftLogWriter;
    use raft_log::{Config, RaftLog};

    use super::LogStore;

    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    struct Types;

    impl raft_log::Types for Types {
        type LogId = (u64, u64);
        type LogPayload = Vec<u8>;
        type Vote = (u64, u64);
        type UserData = u64;
        type Callback = SyncSender<io::Result<()>>;
        fn log_index(id: &(u64, u64)) -> u64 {
            id.1
        }
        fn payload_size(payload: &Vec<u8>) -> u64 {
            payload.len() as u64
        }
    }

    struct Store(RaftLog<Types>);

    pub fn open(dir: &Path) -> Result<Box<dyn LogStore>> {
        let mut config = Config::new(dir.to_str().context("a folder with a UTF-8 name")?);
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        config.wal.chunk_max_size = Some(16 * 1024 * 1024);
        Ok(Box::new(Store(RaftLog::open(Arc::new(config))?)))
    }

    impl Store {
        fn sync(&mut self) -> Result<()> {
            let (done, answer) = sync_channel(1);
            self.0.flush(true, Some(done))?;
            Ok(answer.recv()??)
        }
    }

    impl LogStore for Store {
        fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<()> {
            self.0.append((first..).map(|index| (1, index)).zip(entries.iter().cloned()))?;
            self.sync()
        }
        fn purge(&mut self, upto: u64) -> Result<()> {
            self.0.purge((1, upto))?;
            self.sync()
        }
        fn len(&mut self) -> Result<u64> {
            let mut len = 0;
            for entry in self.0.read(0, u64::MAX) {
                entry?;
                len += 1;
            }
            Ok(len)
        }
    }
}

#[cfg(feature = "raft-engine")]
mod on_raft_engine {
    use std::path::Path;

    use anyhow::{Context, Result};
    use raft_engine::{Config, Engine, LogBatch, ReadableSize};

    use super::LogStore;

    struct Store(Engine);

    /// Its own entries are protobuf messages of TiKV; its key-value records go through the same log file and sync.
    pub fn open(dir: &Path) -> Result<Box<dyn LogStore>> {
        let config = Config {
            dir: dir.to_str().context("a folder with a UTF-8 name")?.to_owned(),
            // Nothing is compressed elsewhere, either.
            batch_compression_threshold: ReadableSize::kb(0),
            ..Config::default()
        };
        Ok(Box::new(Store(Engine::open(config)?)))
    }

    impl LogStore for Store {
        fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<()> {
            let mut batch = LogBatch::default();
            for (index, entry) in (first..).zip(entries) {
                batch.put(1, index.to_be_bytes().to_vec(), entry.clone())?;
            }
            self.0.write(&mut batch, true)?;
            Ok(())
        }
        fn purge(&mut self, upto: u64) -> Result<()> {
            let mut batch = LogBatch::default();
            for index in 1..=upto {
                batch.delete(1, index.to_be_bytes().to_vec());
            }
            self.0.write(&mut batch, true)?;
            self.0.purge_expired_files()?;
            Ok(())
        }
        fn len(&mut self) -> Result<u64> {
            let mut len = 0;
            self.0.scan_raw_messages(1, None, None, false, |_, _| {
                len += 1;
                true
            })?;
            Ok(len)
        }
    }
}

#[cfg(feature = "fjall")]
mod on_fjall {
    use std::path::Path;

    use anyhow::Result;
    use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

    use super::LogStore;

    struct Store {
        db: Database,
        log: Keyspace,
    }

    pub fn open(dir: &Path) -> Result<Box<dyn LogStore>> {
        let db = Database::builder(dir).open()?;
        let log = db.keyspace("log", KeyspaceCreateOptions::default)?;
        Ok(Box::new(Store { db, log }))
    }

    impl LogStore for Store {
        fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<()> {
            let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
            for (index, entry) in (first..).zip(entries) {
                batch.insert(&self.log, index.to_be_bytes(), entry.as_slice());
            }
            Ok(batch.commit()?)
        }
        fn purge(&mut self, upto: u64) -> Result<()> {
            let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
            for index in 1..=upto {
                batch.remove(&self.log, index.to_be_bytes());
            }
            Ok(batch.commit()?)
        }
        fn len(&mut self) -> Result<u64> {
            Ok(self.log.len()? as u64)
        }
    }
}

#[cfg(feature = "redb")]
mod on_redb {
    use std::path::Path;

    use anyhow::Result;
    use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};

    use super::LogStore;

    const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

    struct Store(Database);

    pub fn open(dir: &Path) -> Result<Box<dyn LogStore>> {
        Ok(Box::new(Store(Database::create(dir.join("log.redb"))?)))
    }

    impl LogStore for Store {
        fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<()> {
            let write = self.0.begin_write()?;
            {
                let mut log = write.open_table(LOG)?;
                for (index, entry) in (first..).zip(entries) {
                    log.insert(index, entry.as_slice())?;
                }
            }
            Ok(write.commit()?)
        }
        fn purge(&mut self, upto: u64) -> Result<()> {
            let write = self.0.begin_write()?;
            write.open_table(LOG)?.retain(|index, _| index > upto)?;
            Ok(write.commit()?)
        }
        fn len(&mut self) -> Result<u64> {
            Ok(self.0.begin_read()?.open_table(LOG)?.len()?)
        }
    }
}
