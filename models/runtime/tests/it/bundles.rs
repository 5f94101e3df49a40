//! Who may publish, and what an edge takes in.

use std::collections::HashMap;

use inference::testing::{self, SignedBundle};
use inference::{Bundle, BundleError, Engine, FeatureBatch, PublicKey, Signer, verify, verify_artifact};
use proto::bundle::{ArtifactKind, Catalog, Manifest, SignedManifest};
use proto::{Code, Digest, ErrorReply, ItemId, Revision, codec};

use crate::support::engines;

fn signer() -> Signer {
    Signer::from_seed(&[7; 32])
}

fn tiny() -> SignedBundle {
    testing::bundle(&signer(), 3, 40, 11)
}

fn open(bundle: &SignedBundle, engine: &Engine) -> Result<Bundle, BundleError> {
    let manifest = verify(&bundle.signed, &[signer().public_key()])?;
    Bundle::open(manifest, |kind| bundle.artifact(kind), engine)
}

/// The tiny bundle with other files, signed anew: what a careless publisher could make.
fn open_changed(change: impl FnOnce(&mut HashMap<ArtifactKind, Vec<u8>>)) -> BundleError {
    let mut artifacts = tiny().artifacts;
    change(&mut artifacts);
    let bundle = SignedBundle::new(&signer(), 3, artifacts);
    open(&bundle, &Engine::tract()).map(|_| ()).expect_err("it must be refused")
}

#[test]
fn a_good_bundle_serves_on_both_engines() {
    for engine in engines() {
        let bundle = open(&tiny(), &engine).unwrap();
        assert_eq!(
            (bundle.manifest.revision, bundle.catalog.len(), bundle.rules.popular.len()),
            (Revision(3), 40, 40)
        );
        let retrieval = bundle.retrieval.as_ref().unwrap();
        let mut scores = Vec::new();
        retrieval.model.scores(&[1, 2], &mut scores).unwrap();
        assert_eq!(scores.len(), 40);
        let ranker = bundle.ranker.as_ref().unwrap();
        let visitor = ranker.encoder.visitor(&[], &vec![], &vec![], 0);
        let (mut batch, mut p) = (FeatureBatch::default(), Vec::new());
        ranker.encoder.encode(&visitor, &[0, 5, 39], &mut batch).unwrap();
        ranker.model.rank(&batch, &mut p).unwrap();
        assert_eq!(p.len(), 3);
        assert!(p.iter().all(|p| (0.0..=1.0).contains(p)));
    }
}

#[test]
fn only_a_trusted_key_may_sign() {
    let bundle = tiny();
    let (ours, other) = (signer().public_key(), Signer::from_seed(&[8; 32]).public_key());
    assert!(verify(&bundle.signed, &[other, ours]).is_ok());
    for trusted in [&[][..], &[other], &[PublicKey([0; 32])]] {
        assert!(matches!(verify(&bundle.signed, trusted), Err(BundleError::Signature(_))));
    }
    for at in 0..bundle.signed.manifest.len() {
        let mut changed = bundle.signed.clone();
        changed.manifest[at] ^= 1;
        assert!(matches!(verify(&changed, &[ours]), Err(BundleError::Signature(1))), "byte {at}");
    }
    for at in 0..bundle.signed.signature.len() {
        let mut changed = bundle.signed.clone();
        changed.signature[at] ^= 1;
        assert!(verify(&changed, &[ours]).is_err(), "byte {at}");
        changed.signature.truncate(at);
        assert!(verify(&changed, &[ours]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_signature_over_something_else_is_no_signature() {
    // The same key signed the same bytes, but not as a manifest.
    let bundle = tiny();
    let key = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let signature = key.sign(&bundle.signed.manifest).as_ref().to_vec();
    let signed = SignedManifest { manifest: bundle.signed.manifest, signature };
    let error = verify(&signed, &[signer().public_key()]).unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
}

#[test]
fn a_signed_manifest_can_still_be_wrong() {
    let refused = |says: &str, change: &dyn Fn(&mut Manifest)| {
        let mut manifest = tiny().manifest;
        change(&mut manifest);
        let error = verify(&signer().sign(&manifest), &[signer().public_key()]).unwrap_err();
        assert!(error.to_string().contains(says), "`{error}` does not say `{says}`");
        error.code()
    };
    refused("is there twice", &|m| m.artifacts.push(m.artifacts[0].clone()));
    refused("Catalog is not there", &|m| m.artifacts.retain(|a| a.kind != ArtifactKind::Catalog));
    refused("Rules is not there", &|m| m.artifacts.retain(|a| a.kind != ArtifactKind::Rules));
    refused("go together", &|m| m.artifacts.retain(|a| a.kind != ArtifactKind::RankerCard));
    refused("go together", &|m| m.artifacts.retain(|a| a.kind != ArtifactKind::RetrievalModel));
    refused("revision 0", &|m| m.revision = Revision(0));
    refused("expires", &|m| m.expires_at_ms = 0);
    refused("at most 64 artifacts", &|m| m.artifacts = vec![m.artifacts[0].clone(); 65]);
    assert_eq!(refused("too large", &|m| m.artifacts[0].size = u64::MAX), Code::TooLarge);
    let key = signer().public_key();
    let huge = SignedManifest { manifest: vec![0; 100_000], signature: vec![0; 64] };
    assert_eq!(verify(&huge, &[key]).unwrap_err().code(), Code::TooLarge);
}

#[test]
fn files_that_are_not_those_named_are_refused() {
    let bundle = tiny();
    for artifact in &bundle.manifest.artifacts {
        let good = bundle.artifact(artifact.kind).unwrap();
        verify_artifact(artifact, &good).unwrap();
        let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            assert!(matches!(verify_artifact(artifact, &bytes), Err(BundleError::Corrupt { .. })));
            let files =
                |kind| if kind == artifact.kind { Some(bytes.clone()) } else { bundle.artifact(kind) };
            let error =
                Bundle::open(bundle.manifest.clone(), files, &Engine::tract()).map(|_| ()).unwrap_err();
            assert_eq!(error.code(), Code::Corrupt);
        };
        damaged(&|bytes| bytes[0] ^= 1);
        damaged(&|bytes| bytes.truncate(bytes.len() - 1));
        damaged(&|bytes| bytes.push(0));
        damaged(&|bytes| bytes.clear());
        let files = |kind| bundle.artifact(kind).filter(|_| kind != artifact.kind);
        let error = Bundle::open(bundle.manifest.clone(), files, &Engine::tract()).map(|_| ()).unwrap_err();
        assert!(matches!(error, BundleError::Missing(kind) if kind == artifact.kind));
    }
}

#[test]
fn wrong_contents_are_refused_with_where_and_why() {
    let assert_says = |error: BundleError, says: &str| {
        let reply = ErrorReply::from(error);
        assert!(reply.message.contains(says), "`{}` does not say `{says}`", reply.message);
    };
    let replace = |kind: ArtifactKind, bytes: &[u8]| {
        let bytes = bytes.to_vec();
        open_changed(|files| drop(files.insert(kind, bytes)))
    };
    use ArtifactKind::{Catalog, RankerCard, RankerModel, RetrievalCard, RetrievalModel, Rules};
    assert_says(replace(Catalog, b"not json"), "Catalog is refused");
    let item = r#"{"id":"a","title":"A"}"#;
    assert_says(replace(Catalog, format!(r#"{{"items":[{item},{item}]}}"#).as_bytes()), "`a` is there twice");
    assert_says(replace(Catalog, br#"{"items":[{"id":"","title":"A"}]}"#), "must not be empty");
    let long = format!(r#"{{"items":[{{"id":"a","title":"{}"}}]}}"#, "x".repeat(600));
    assert_says(replace(Catalog, long.as_bytes()), "title");
    assert_says(replace(Rules, br#"{"surprise":1}"#), "unknown field");
    assert_says(replace(Rules, br#"{"diversity_lambda":1.5}"#), "from 0 to 1");
    assert_says(replace(RankerCard, b"{}"), "RankerCard: the card cannot be read");
    assert_says(replace(RankerModel, b"\x00\x01"), "RankerModel: the model's SHA-256");
    // The wrong card, and the wrong model, of the right kind.
    let other = testing::bundle(&signer(), 1, 41, 5).artifacts;
    assert_says(replace(RetrievalCard, &other[&RetrievalCard]), "RetrievalModel: the model's SHA-256");
    assert_says(replace(RetrievalModel, &other[&RankerModel]), "SHA-256");
    let swapped = |files: &mut HashMap<ArtifactKind, Vec<u8>>| {
        files.insert(RetrievalCard, other[&RankerCard].clone());
        files.insert(RetrievalModel, other[&RankerModel].clone());
    };
    assert_says(open_changed(swapped), "RetrievalCard: the card is refused");
    // A model that is larger in shape than its card says.
    let mut forged = testing::retrieval(&testing::catalog(40), 11);
    forged.set_onnx(testing::retrieval(&testing::catalog(41), 11).onnx);
    let shape = |files: &mut HashMap<ArtifactKind, Vec<u8>>| {
        files.insert(RetrievalCard, forged.card_json());
        files.insert(RetrievalModel, forged.onnx.clone());
    };
    assert_says(open_changed(shape), "RetrievalModel: the ONNX graph is refused: output `scores` must be");
}

#[test]
fn a_bundle_without_models_opens() {
    let mut artifacts = tiny().artifacts;
    artifacts.retain(|kind, _| matches!(kind, ArtifactKind::Catalog | ArtifactKind::Rules));
    let bundle = open(&SignedBundle::new(&signer(), 1, artifacts), &Engine::tract()).unwrap();
    assert!(bundle.retrieval.is_none() && bundle.ranker.is_none());
}

#[test]
fn models_and_catalog_need_not_know_the_same_items() {
    // Models of 40 items, a catalog of 10 of them and one that they never saw.
    let mut catalog = testing::catalog(10);
    catalog.items.reverse();
    let mut new = catalog.items[0].clone();
    new.id = proto::ItemId::new("new").unwrap();
    catalog.items.push(new);
    let mut artifacts = tiny().artifacts;
    artifacts.insert(ArtifactKind::Catalog, serde_json::to_vec(&catalog).unwrap());
    let bundle = open(&SignedBundle::new(&signer(), 1, artifacts), &Engine::tract()).unwrap();
    let retrieval = bundle.retrieval.as_ref().unwrap();
    assert_eq!(retrieval.places.len(), 40);
    assert_eq!((retrieval.places[0], retrieval.places[9], retrieval.places[10]), (Some(9), Some(0), None));
    assert_eq!((retrieval.indices[9], retrieval.indices[10]), (Some(0), None));
    let ranker = bundle.ranker.as_ref().unwrap();
    let (mut batch, mut p) = (FeatureBatch::default(), Vec::new());
    let visitor = ranker.encoder.visitor(&[], &vec![], &vec![], 0);
    ranker.encoder.encode(&visitor, &[10], &mut batch).unwrap();
    ranker.model.rank(&batch, &mut p).unwrap();
    assert_eq!((batch.fields()[0], p.len()), (0, 1));
}

#[test]
fn a_key_file_is_its_owner_s_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.key");
    let made = Signer::create(&path).unwrap();
    let read = Signer::read(&path).unwrap();
    assert_eq!(made.public_key(), read.public_key());
    let manifest = tiny().manifest;
    assert_eq!(verify(&read.sign(&manifest), &[made.public_key()]).unwrap(), manifest);
    assert!(
        matches!(Signer::create(&path), Err(BundleError::Key { .. })),
        "an existing key is never overwritten"
    );
    assert!(Signer::read(&folder.path().join("absent")).is_err());
    std::fs::write(folder.path().join("garbage"), b"garbage").unwrap();
    assert!(Signer::read(&folder.path().join("garbage")).is_err());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Signer::read(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }
    let shown = format!("{made:?}");
    assert!(shown.contains(&made.public_key().to_string()) && shown.len() < 120, "{shown}");
}

#[test]
fn a_public_key_has_a_text_form() {
    let key = signer().public_key();
    assert_eq!(PublicKey::from_hex(&key.to_string()), Some(key));
    assert_eq!(PublicKey::from_hex("00"), None);
    // RFC 8032, 7.1, test 1.
    let seed = Digest::from_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    assert_eq!(Signer::from_seed(&seed.0).public_key().to_string(), public);
}

#[test]
fn a_manifest_decodes_to_what_was_signed() {
    let bundle = tiny();
    let manifest = verify(&bundle.signed, &[signer().public_key()]).unwrap();
    assert_eq!(manifest, bundle.manifest);
    assert_eq!(codec::decode::<Manifest>(&bundle.signed.manifest).unwrap(), bundle.manifest);
}

#[test]
fn a_model_that_opens_and_answers_nonsense_is_refused() {
    let error = open_changed(|files| {
        // Golden answers are of the first ten items; two of the others in one history come to infinity.
        let model = testing::poisoned_retrieval(&testing::catalog(40), 1, |place| place >= 10);
        files.insert(ArtifactKind::RetrievalCard, model.card_json());
        files.insert(ArtifactKind::RetrievalModel, model.onnx);
    });
    let BundleError::Model { kind, error } = error else { panic!("{error}") };
    assert_eq!(kind, ArtifactKind::RetrievalModel);
    assert!(matches!(error, inference::ModelError::NotFinite(_)), "{error}");
}

/// The tiny catalog under other ids, by number.
fn renamed(items: usize, id: impl Fn(usize) -> String) -> Catalog {
    let mut catalog = testing::catalog(items);
    for (n, item) in catalog.items.iter_mut().enumerate() {
        item.id = ItemId::new(id(n)).unwrap();
    }
    catalog
}

fn json(catalog: &Catalog) -> Vec<u8> {
    serde_json::to_vec(catalog).unwrap()
}

/// A catalog of other data is refused with the share of items that match, and so is one without items.
#[test]
fn models_and_a_catalog_that_do_not_belong_together_are_refused() {
    let own = testing::catalog(40);
    let id = |n: usize| own.items[n].id.as_str().to_owned();
    let refused =
        |catalog: &Catalog| open_changed(|files| drop(files.insert(ArtifactKind::Catalog, json(catalog))));
    let error = refused(&renamed(40, |n| format!("shop-{n}"))).to_string();
    assert!(error.contains("RetrievalModel") && error.contains("0 are the same, 0.0%"), "{error}");
    let error = refused(&renamed(40, |n| if n < 18 { id(n) } else { format!("new-{n}") })).to_string();
    assert!(error.contains("18 are the same, 45.0% (at least 50% are due)"), "{error}");
    let error = refused(&Catalog::default());
    assert!(error.to_string().contains("it has no items"), "{error}");
    assert_eq!(error.code(), Code::Invalid);

    // Items come and go: a part of the items, and many new ones beside all of them, are fine.
    let good = |catalog: &Catalog| {
        let mut artifacts = tiny().artifacts;
        artifacts.insert(ArtifactKind::Catalog, json(catalog));
        open(&SignedBundle::new(&signer(), 3, artifacts), &Engine::tract()).unwrap();
    };
    good(&testing::catalog(4));
    good(&renamed(400, |n| if n < 40 { id(n) } else { format!("new-{n}") }));
    good(&renamed(40, |n| if n < 20 { id(n) } else { format!("new-{n}") }));
}

/// The ranker of another training, which lay in the folder.
#[test]
fn two_models_of_different_data_are_refused() {
    let error =
        open_changed(|files| {
            // A catalog that has the items of both: only the models do not belong together.
            let catalog = renamed(80, |n| {
                if n < 40 { testing::catalog(40).items[n].id.to_string() } else { format!("x{n}") }
            });
            let mut others = catalog.clone();
            others.items.drain(..40);
            let ranker = testing::ranker(&others, 5);
            files.insert(ArtifactKind::Catalog, json(&catalog));
            files.insert(ArtifactKind::RankerCard, ranker.card_json());
            files.insert(ArtifactKind::RankerModel, ranker.onnx);
        })
        .to_string();
    assert!(error.contains("RankerModel") && error.contains("0 are the same, 0.0%"), "{error}");

    // Numbers as ids are alike everywhere; the categories show that the ranker is of films and the catalog is not.
    let error = open_changed(|files| {
        let mut catalog = testing::catalog(40);
        catalog.items.iter_mut().for_each(|item| item.categories = vec!["Shoes".to_owned()]);
        files.insert(ArtifactKind::Catalog, json(&catalog));
    })
    .to_string();
    assert!(error.contains("RankerModel") && error.contains("categories"), "{error}");
}
