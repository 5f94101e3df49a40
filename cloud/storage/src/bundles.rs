//! Bundles: signed manifests under revisions that only grow. Rows are added and never changed.

use proto::Revision;
use proto::bundle::{Manifest, SignedManifest};
use proto::control::{BundleView, RolloutView};

use crate::audit::{self, Change};
use crate::error::StorageError;
use crate::{Storage, from_sql, rollouts, sql, to_sql};

/// Most bundles that one query answers with.
pub const BUNDLES_MAX: u32 = 500;

type BundleRow = (i64, Vec<u8>, Vec<u8>, String, Option<i64>, i64);

/// What a new bundle carries beside its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Why, as its publisher said.
    pub note: String,
    /// The revision whose contents it repeats.
    pub rollback_of: Option<Revision>,
    /// When, milliseconds since 1970 UTC.
    pub published_at_ms: u64,
}

/// A bundle as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBundle {
    /// Its number.
    pub revision: Revision,
    /// What was signed, with the signature.
    pub signed: SignedManifest,
    /// The same, decoded.
    pub manifest: Manifest,
    /// Why, as its publisher said.
    pub note: String,
    /// The revision whose contents it repeats.
    pub rollback_of: Option<Revision>,
    /// When, milliseconds since 1970 UTC.
    pub published_at_ms: u64,
}

impl StoredBundle {
    /// As the control API shows it.
    pub fn view(&self) -> BundleView {
        BundleView {
            revision: self.revision,
            published_at_ms: self.published_at_ms,
            rollback_of: self.rollback_of,
            note: self.note.clone(),
            artifacts: self.manifest.artifacts.clone(),
        }
    }
}

impl Storage {
    /// Adds a bundle under the next revision, which is above `floor` too, together with its line in the audit log and the rollouts that change with it.
    /// `sign` makes the manifest for the revision it is given, `roll` says what becomes of rollouts; both run while the
    /// write lock is held, so they must be quick.
    pub async fn publish_bundle(
        &self,
        draft: &Draft,
        change: &Change,
        floor: Revision,
        sign: impl FnOnce(Revision) -> SignedManifest + Send,
        roll: impl FnOnce(Revision) -> Vec<RolloutView> + Send,
    ) -> Result<StoredBundle, StorageError> {
        let failed = || StorageError::database("publish a bundle");
        let mut transaction = self.write("publish a bundle").await?;
        let last: i64 =
            sqlx::query_scalar(sql::BUNDLE_LAST).fetch_one(&mut *transaction).await.map_err(failed())?;
        let revision = Revision(from_sql(last).max(floor.0) + 1);
        let signed = sign(revision);
        sqlx::query(sql::BUNDLE_INSERT)
            .bind(to_sql(revision.0))
            .bind(&signed.manifest)
            .bind(&signed.signature)
            .bind(&draft.note)
            .bind(draft.rollback_of.map(|r| to_sql(r.0)))
            .bind(to_sql(draft.published_at_ms))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        for view in roll(revision) {
            rollouts::upsert(&mut transaction, &view).await.map_err(failed())?;
        }
        let change = Change { detail: format!("revision {revision}: {}", change.detail), ..change.clone() };
        audit::insert(&mut transaction, &change).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        Ok(StoredBundle {
            revision,
            manifest: decode(revision, &signed)?,
            signed,
            note: draft.note.clone(),
            rollback_of: draft.rollback_of,
            published_at_ms: draft.published_at_ms,
        })
    }

    /// One bundle.
    pub async fn bundle(&self, revision: Revision) -> Result<Option<StoredBundle>, StorageError> {
        let row: Option<BundleRow> = sqlx::query_as(sql::BUNDLE)
            .bind(to_sql(revision.0))
            .fetch_optional(&self.readers)
            .await
            .map_err(StorageError::database("read a bundle"))?;
        row.map(stored).transpose()
    }

    /// The newest bundles, newest first, at most `limit` and [`BUNDLES_MAX`].
    pub async fn bundles(&self, limit: u32) -> Result<Vec<StoredBundle>, StorageError> {
        let rows: Vec<BundleRow> = sqlx::query_as(sql::BUNDLES)
            .bind(i64::from(limit.min(BUNDLES_MAX)))
            .fetch_all(&self.readers)
            .await
            .map_err(StorageError::database("read bundles"))?;
        rows.into_iter().map(stored).collect()
    }

    /// The newest bundle, if there is one.
    pub async fn newest_bundle(&self) -> Result<Option<StoredBundle>, StorageError> {
        Ok(self.bundles(1).await?.pop())
    }
}

fn stored(row: BundleRow) -> Result<StoredBundle, StorageError> {
    let (revision, manifest, signature, note, rollback_of, published_at_ms) = row;
    let revision = Revision(from_sql(revision));
    let signed = SignedManifest { manifest, signature };
    Ok(StoredBundle {
        revision,
        manifest: decode(revision, &signed)?,
        signed,
        note,
        rollback_of: rollback_of.map(|r| Revision(from_sql(r))),
        published_at_ms: from_sql(published_at_ms),
    })
}

fn decode(revision: Revision, signed: &SignedManifest) -> Result<Manifest, StorageError> {
    proto::codec::decode(&signed.manifest).map_err(|source| StorageError::Undecodable {
        what: format!("the manifest of revision {revision}"),
        source,
    })
}
