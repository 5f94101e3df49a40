//! How far each bundle has come: its rollout, changed in one transaction with its line in the audit log.

use proto::Revision;
use proto::control::{RolloutStage, RolloutView};
use sqlx::SqliteConnection;

use crate::audit::{self, Change};
use crate::error::StorageError;
use crate::{Storage, sql, to_sql};

/// Most rollouts that one query answers with.
pub const ROLLOUTS_MAX: u32 = 500;

impl Storage {
    /// Keeps a rollout in place of what was known of it, and writes `change` into the audit log.
    pub async fn set_rollout(&self, view: &RolloutView, change: &Change) -> Result<(), StorageError> {
        let failed = || StorageError::database("keep a rollout");
        let mut transaction = self.write("keep a rollout").await?;
        upsert(&mut transaction, view).await.map_err(failed())?;
        audit::insert(&mut transaction, change).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    /// The newest rollouts, newest first, at most `limit` and [`ROLLOUTS_MAX`].
    pub async fn rollouts(&self, limit: u32) -> Result<Vec<RolloutView>, StorageError> {
        let rows: Vec<(String,)> = sqlx::query_as(sql::ROLLOUTS)
            .bind(i64::from(limit.min(ROLLOUTS_MAX)))
            .fetch_all(&self.readers)
            .await
            .map_err(StorageError::database("read rollouts"))?;
        rows.iter().map(view).collect()
    }

    /// The rollout of one bundle.
    pub async fn rollout(&self, revision: Revision) -> Result<Option<RolloutView>, StorageError> {
        let row: Option<(String,)> = sqlx::query_as(sql::ROLLOUT)
            .bind(to_sql(revision.0))
            .fetch_optional(&self.readers)
            .await
            .map_err(StorageError::database("read a rollout"))?;
        row.as_ref().map(view).transpose()
    }

    /// The newest rollout of each stage.
    pub async fn last_rollouts(&self) -> Result<Vec<RolloutView>, StorageError> {
        let mut last = Vec::new();
        for stage in RolloutStage::ALL {
            let row: Option<(String,)> = sqlx::query_as(sql::ROLLOUT_LAST)
                .bind(stage.as_str())
                .fetch_optional(&self.readers)
                .await
                .map_err(StorageError::database("read rollouts"))?;
            last.extend(row.as_ref().map(view).transpose()?);
        }
        Ok(last)
    }
}

pub(crate) async fn upsert(connection: &mut SqliteConnection, view: &RolloutView) -> Result<(), sqlx::Error> {
    let json = serde_json::to_string(view).expect("a rollout has text keys and whole numbers only");
    sqlx::query(sql::ROLLOUT_SET)
        .bind(to_sql(view.revision.0))
        .bind(view.stage.as_str())
        .bind(json)
        .execute(connection)
        .await
        .map(drop)
}

fn view((json,): &(String,)) -> Result<RolloutView, StorageError> {
    serde_json::from_str(json).map_err(|source| StorageError::Unreadable { what: "a rollout", source })
}
