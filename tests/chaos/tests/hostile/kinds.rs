//! What is hostile: every kind once, made from a seed.

use std::collections::HashMap;

use fastrand::Rng;
use inference::tensor::DType;
use inference::testing::graph::Graph;
use inference::testing::{self, Model, SignedBundle};
use inference::{PublicKey, Signer};
use proto::bundle::{ArtifactKind, Manifest, SignedManifest};
use proto::{Digest, Revision, codec};

use crate::cloud::{File, Published};

/// Items of every catalog.
const ITEMS: usize = 40;
/// Good bundles that differ.
const VARIANTS: u64 = 4;
/// Files of one bundle, and the manifest.
pub const FILES_MAX: usize = 7;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Kinds of hostile bundles.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $name),* }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$name),*];
        }
    };
}

kinds!(
    /// A manifest beyond its limit, signed.
    OversizedManifest,
    /// Artifacts that claim more bytes than a disk has, signed.
    OversizedArtifact,
    /// The cloud claims another size than the manifest, or sends more.
    OversizedReply,
    /// A file that ends early, signed as it is.
    TruncatedFile,
    /// The cloud stops in the middle of a file.
    TruncatedReply,
    /// The cloud sends a file byte by byte.
    Drip,
    /// A file of another kind, signed.
    WrongType,
    /// A good bundle of long ago, announced as newer.
    RolledBack,
    /// The good bundle of now, announced as newer.
    Replayed,
    /// Good, but for its time.
    Expired,
    /// A model with the card of another, signed.
    Mixed,
    /// The manifest of one bundle with the signature of another.
    Matched,
    /// Signed with a key that nobody trusts.
    WrongKey,
    /// Not signed at all.
    Unsigned,
    /// Files that are not those of the manifest.
    WrongDigest,
    /// A bit of the manifest or its signature is flipped.
    FlippedManifest,
    /// A bit of an ONNX file is flipped on the way.
    FlippedOnnx,
    /// A bit of an ONNX file is flipped, and the file signed.
    FlippedOnnxSigned,
    /// A graph that claims weights without end, signed.
    Bomb,
    /// A model that opens, gives its golden answers, and infinity for others; signed.
    Nonsense,
    /// A file is named twice, or not at all, or the manifest contradicts itself; signed.
    Contradiction,
    /// A file that nobody has.
    Missing,
    /// Bytes from a generator of random numbers, as manifest or as file.
    Random,
);

type Files = HashMap<ArtifactKind, Vec<u8>>;

/// Makes bundles.
pub struct Mint {
    signer: Signer,
    stranger: Signer,
    random: Rng,
    variants: Vec<Files>,
    nonsense: Model,
    /// Good bundles that were published, oldest first.
    good: Vec<SignedBundle>,
    last: u64,
    drawn: usize,
}

impl Mint {
    pub fn new(seed: u64) -> Self {
        let signer = Signer::from_seed(&[1; 32]);
        let variants =
            (0..VARIANTS).map(|n| testing::bundle(&signer, 1, ITEMS, 10 * n + 1).artifacts).collect();
        // All items but those of the golden answers.
        let nonsense = testing::poisoned_retrieval(&testing::catalog(ITEMS), 1, |place| place >= 10);
        let (stranger, random) = (Signer::from_seed(&[2; 32]), Rng::with_seed(seed));
        Self { signer, stranger, random, variants, nonsense, good: Vec::new(), last: 0, drawn: 0 }
    }

    pub fn trusted(&self) -> Vec<PublicKey> {
        vec![self.signer.public_key()]
    }

    pub fn next_revision(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Each kind in turn, then any.
    pub fn draw(&mut self) -> Kind {
        self.drawn += 1;
        Kind::ALL
            .get(self.drawn - 1)
            .copied()
            .unwrap_or_else(|| Kind::ALL[self.random.usize(..Kind::ALL.len())])
    }

    /// The next good bundle.
    pub fn good(&mut self) -> (u64, Published) {
        let revision = self.next_revision();
        let files = self.variant();
        let bundle = SignedBundle::new(&self.signer, revision, files);
        let published = honest(revision, &bundle);
        self.good.push(bundle);
        (revision, published)
    }

    /// Files of the present good bundle.
    pub fn files_of_good(&self) -> usize {
        self.good.last().map_or(0, |bundle| bundle.artifacts.len())
    }

    fn variant(&mut self) -> Files {
        let at = self.random.usize(..self.variants.len());
        self.variants[at].clone()
    }

    /// Signed as it should be, with files that were changed.
    fn signed(&mut self, revision: u64, change: impl FnOnce(&mut Files, &mut Rng)) -> Published {
        let mut files = self.variant();
        change(&mut files, &mut self.random);
        honest(revision, &SignedBundle::new(&self.signer, revision, files))
    }

    /// Good files under a manifest that was changed before it was signed.
    fn manifest(&mut self, revision: u64, change: impl FnOnce(&mut Manifest, &mut Rng)) -> Published {
        let files = self.variant();
        let bundle = SignedBundle::new(&self.signer, revision, files);
        let (mut manifest, mut published) = (bundle.manifest.clone(), honest(revision, &bundle));
        change(&mut manifest, &mut self.random);
        published.signed = Some(self.signer.sign(&manifest));
        published
    }

    /// A retrieval model that the node does not have, with its card, so that it has to ask for the bytes.
    fn fresh(&mut self, files: &mut Files) {
        let model = testing::retrieval(&testing::catalog(ITEMS), self.random.u64(1_000..));
        files.insert(ArtifactKind::RetrievalCard, model.card_json());
        files.insert(ArtifactKind::RetrievalModel, model.onnx);
    }

    /// A good bundle with files that the node does not have, handed out otherwise than its manifest says.
    fn handed_out(&mut self, revision: u64, change: impl Fn(&mut File, &mut Rng)) -> Published {
        let mut files = self.variant();
        self.fresh(&mut files);
        let mut published = honest(revision, &SignedBundle::new(&self.signer, revision, files));
        published.files.values_mut().for_each(|file| change(file, &mut self.random));
        published
    }

    /// A bundle of this kind, announced as `revision`.
    pub fn hostile(&mut self, kind: Kind, revision: u64) -> Published {
        match kind {
            Kind::OversizedManifest => {
                let mut published = self.signed(revision, |_, _| {});
                published.signed = Some(self.padded(revision));
                published
            }
            Kind::OversizedArtifact => self.manifest(revision, |manifest, random| {
                let at = random.usize(..manifest.artifacts.len());
                let artifact = &mut manifest.artifacts[at];
                artifact.size = *random.choice([u64::MAX, 1 << 40, (256 << 20) + 1].iter()).unwrap();
                artifact.digest = Digest::of(&random.u64(..).to_be_bytes());
            }),
            Kind::OversizedReply => self.handed_out(revision, |file, random| {
                file.size = if random.bool() { u64::MAX } else { file.size + 1 };
                file.bytes = std::sync::Arc::new([&file.bytes[..], &[0; 10_000]].concat());
            }),
            Kind::TruncatedReply => self.handed_out(revision, |file, random| {
                let len = random.usize(..file.bytes.len());
                file.bytes = std::sync::Arc::new(file.bytes[..len].to_vec());
            }),
            Kind::Drip => self.handed_out(revision, |file, _| file.part = 1),
            Kind::WrongDigest => self.handed_out(revision, |file, random| {
                file.bytes = std::sync::Arc::new((0..file.size).map(|_| random.u8(..)).collect());
            }),
            Kind::FlippedOnnx => self.handed_out(revision, |file, random| {
                let mut bytes = file.bytes.to_vec();
                flip(&mut bytes, random);
                file.bytes = std::sync::Arc::new(bytes);
            }),
            Kind::Missing => {
                let mut published = self.handed_out(revision, |_, _| {});
                published.files.clear();
                published
            }
            Kind::RolledBack | Kind::Replayed | Kind::Matched | Kind::WrongKey | Kind::Unsigned => {
                self.misused(kind, revision)
            }
            Kind::FlippedManifest => {
                let mut published = self.signed(revision, |_, _| {});
                let signed = published.signed.as_mut().unwrap();
                let of = if self.random.bool() { &mut signed.manifest } else { &mut signed.signature };
                flip(of, &mut self.random);
                published
            }
            Kind::Expired | Kind::Contradiction => self.contradicting(kind, revision),
            _ => self.spoiled(kind, revision),
        }
    }

    /// Signatures and numbers that are good, elsewhere.
    fn misused(&mut self, kind: Kind, revision: u64) -> Published {
        let present = self.good.len() - 1;
        match kind {
            Kind::RolledBack => honest(revision, &self.good[self.random.usize(..=present.saturating_sub(1))]),
            Kind::Replayed => honest(revision, &self.good[present]),
            Kind::WrongKey => {
                let files = self.variant();
                honest(revision, &SignedBundle::new(&self.stranger, revision, files))
            }
            _ => {
                let mut published = self.signed(revision, |_, _| {});
                let signature = match kind {
                    Kind::Matched => self.good[present].signed.signature.clone(),
                    _ => vec![0; *self.random.choice([0, 63, 64, 65].iter()).unwrap()],
                };
                published.signed.as_mut().unwrap().signature = signature;
                published
            }
        }
    }

    fn contradicting(&mut self, kind: Kind, revision: u64) -> Published {
        self.manifest(revision, |manifest, random| {
            if kind == Kind::Expired {
                manifest.expires_at_ms = manifest.published_at_ms + 1 + random.u64(..1_000_000);
                return;
            }
            match random.u8(..5) {
                0 => manifest.artifacts.push(manifest.artifacts[0].clone()),
                1 => manifest.artifacts.retain(|artifact| artifact.kind != ArtifactKind::Catalog),
                2 => manifest.artifacts.retain(|artifact| artifact.kind != ArtifactKind::RankerCard),
                3 => manifest.expires_at_ms = manifest.published_at_ms,
                _ => manifest.revision = Revision(0),
            }
        })
    }

    /// Files that are bad, signed all the same.
    fn spoiled(&mut self, kind: Kind, revision: u64) -> Published {
        let (nonsense, other) = (self.nonsense.clone(), self.variant());
        let fresh = testing::retrieval(&testing::catalog(ITEMS), self.random.u64(1_000..));
        self.signed(revision, |files, random| match kind {
            Kind::TruncatedFile => {
                let kinds = [ArtifactKind::Catalog, ArtifactKind::RetrievalModel, ArtifactKind::RankerCard];
                let kind = *random.choice(kinds.iter()).unwrap();
                let bytes = files.get_mut(&kind).unwrap();
                bytes.truncate(random.usize(..bytes.len() - 1));
                with_card(files, kind);
            }
            Kind::WrongType => {
                let kinds = [ArtifactKind::RankerModel, ArtifactKind::Catalog, ArtifactKind::RankerCard];
                let bytes = files[random.choice(kinds.iter()).unwrap()].clone();
                let kind =
                    *random.choice([ArtifactKind::RetrievalModel, ArtifactKind::Rules].iter()).unwrap();
                files.insert(kind, bytes);
                with_card(files, kind);
            }
            Kind::Mixed => {
                let kind =
                    *random.choice([ArtifactKind::RetrievalCard, ArtifactKind::RankerCard].iter()).unwrap();
                let mine = files[&kind].clone();
                let theirs = if other[&kind] == mine { fresh.card_json() } else { other[&kind].clone() };
                files.insert(kind, theirs);
            }
            Kind::FlippedOnnxSigned => {
                let kind =
                    *random.choice([ArtifactKind::RetrievalModel, ArtifactKind::RankerModel].iter()).unwrap();
                flip(files.get_mut(&kind).unwrap(), random);
            }
            Kind::Bomb => {
                files.insert(ArtifactKind::RetrievalModel, bomb(random));
                with_card(files, ArtifactKind::RetrievalModel);
            }
            Kind::Nonsense => {
                files.insert(ArtifactKind::RetrievalCard, nonsense.card_json());
                files.insert(ArtifactKind::RetrievalModel, nonsense.onnx);
            }
            _ => {
                let kind = ArtifactKind::ALL[random.usize(..ArtifactKind::ALL.len())];
                files.insert(kind, (0..random.usize(1..5_000)).map(|_| random.u8(..)).collect());
                with_card(files, kind);
            }
        })
    }

    /// A manifest beyond its limit, or many times over.
    fn padded(&mut self, revision: u64) -> SignedManifest {
        let files = self.variant();
        let mut manifest = SignedBundle::new(&self.signer, revision, files).manifest;
        let artifact = manifest.artifacts[0].clone();
        let count = self.random.usize(2_000..8_000);
        manifest.artifacts.resize(count, artifact);
        let signed = self.signer.sign(&manifest);
        assert!(codec::encode(&signed).len() < proto::codec::FrameKind::UplinkReply.body_bytes_max());
        signed
    }
}

/// The bundle as it is, announced as `announced`.
fn honest(announced: u64, bundle: &SignedBundle) -> Published {
    let files = bundle.artifacts.values().map(|bytes| (Digest::of(bytes), File::honest(bytes.clone())));
    Published { announced, signed: Some(bundle.signed.clone()), files: files.collect() }
}

fn flip(bytes: &mut [u8], random: &mut Rng) {
    let at = random.usize(..bytes.len());
    bytes[at] ^= 1 << random.u8(..8);
}

/// If a retrieval model was replaced, its card says so: the next check is to have its turn.
fn with_card(files: &mut Files, replaced: ArtifactKind) {
    if replaced == ArtifactKind::RetrievalModel {
        let mut model = testing::retrieval(&testing::catalog(ITEMS), 1);
        model.set_onnx(files[&replaced].clone());
        files.insert(ArtifactKind::RetrievalCard, model.card_json());
    }
}

/// A small file that claims much.
fn bomb(random: &mut Rng) -> Vec<u8> {
    let many = *random.choice([1 << 20, 1 << 30, 1 << 40, usize::MAX >> 2].iter()).unwrap();
    let mut graph = Graph::new("retrieval");
    graph.input("history", DType::I64, &[testing::HISTORY_LEN]).output("scores", DType::F32, &[ITEMS]);
    if random.bool() {
        graph.floats("table", &[many, 4], &[0.0; 4]);
    } else {
        graph.floats("table", &[4, 4], &[0.0; 16]).ints("repeats", &[many as i64, 1]);
        graph.node("Expand", &["table", "repeats"], "large", &[]);
    }
    graph.node("MatMul", &["history", "table"], "scores", &[]);
    graph.to_onnx()
}
