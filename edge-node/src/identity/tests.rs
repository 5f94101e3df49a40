//! How a node comes by its certificate, against a door that answers as the test says.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::enrol::{EnrolReply, EnrolRequest};
use proto::{Code, ErrorReply, NodeId, PopId};
use transport::pki::{Authority, Issuer, Validity};
use transport::quic::{QuicListener, Settings};
use transport::{Door, Listener as _};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A node's folder and the deployment's authority.
struct Place {
    folder: tempfile::TempDir,
    authority: Authority,
    config: Config,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        let authority = Authority::create(&pki, Validity::starting_now(HOUR)).unwrap();
        let mut config = Config::load(None).unwrap();
        config.dir = folder.path().to_owned();
        config.node.pop = PopId::new("fra").unwrap();
        config.node.id = NodeId(4);
        config.tls.ca = pki.join("ca.pem");
        config.tls.certificate = folder.path().join("node.pem");
        config.tls.key = folder.path().join("node.key");
        config.identity.file = folder.path().join("identity.pem");
        config.identity.token = folder.path().join("identity.token");
        Self { folder, authority, config }
    }

    /// Gives the node a certificate as an operator would.
    fn give(&self, node: u64, lifetime: Duration) {
        let validity = Validity::starting_now(lifetime);
        let issued = self.authority.issue_node(&self.config.node.pop, NodeId(node), &[], validity).unwrap();
        std::fs::copy(issued.certificate, &self.config.tls.certificate).unwrap();
        std::fs::copy(issued.key, &self.config.tls.key).unwrap();
    }

    fn put_token(&self) {
        service::secrets::write_new(&self.config.identity.token, "a one-time token").unwrap();
    }

    async fn refused(&self) -> String {
        format!("{:#}", Own::open(&self.config).await.unwrap_err())
    }

    /// A door that answers each request in turn: `None` keeps silent. The keys that came are kept.
    fn door(&mut self, mut answers: Vec<Option<EnrolReply>>) -> Arc<Mutex<Vec<Vec<u8>>>> {
        let cloud =
            self.authority.issue_cloud(&[], Validity::starting_now(HOUR)).unwrap().credentials().unwrap();
        let (trust, settings) = (self.authority.trust().unwrap(), Settings::peers());
        let any = ([127, 0, 0, 1], 0).into();
        let listener = QuicListener::bind(any, Door::Enrol, &cloud, &trust, &settings).unwrap();
        self.config.identity.enrol = listener.local_address();
        let pki = self.folder.path().join("pki");
        let issuer = Issuer::read(&pki.join("ca.pem"), &pki.join("ca.key")).unwrap();
        let keys = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&keys);
        tokio::spawn(async move {
            while let Some(link) = listener.accept().await {
                let mut stream = link.accept().await.unwrap();
                let EnrolRequest { pop, node, token, request } = stream.recv().await.unwrap();
                assert_eq!(token.0, "a one-time token");
                let identity = Identity::Node { pop, node };
                let signed = issuer.sign(&identity, &request, &[], HOUR).unwrap();
                seen.lock().unwrap().push(signed.key.0.to_vec());
                let answer = if answers.is_empty() {
                    Some(EnrolReply::Issued(signed.chain))
                } else {
                    answers.remove(0)
                };
                match answer {
                    Some(reply) => {
                        stream.send(&reply).await.unwrap();
                        stream.finish();
                        link.closed().await;
                    }
                    None => link.close("no answer"),
                }
            }
        });
        keys
    }
}

fn error(code: Code) -> Option<EnrolReply> {
    Some(EnrolReply::Error(ErrorReply::new(code, "said so")))
}

#[tokio::test]
async fn a_node_without_anything_says_what_to_do() {
    let text = Place::new().refused().await;
    for part in ["enrol-token", "identity.token", "node.pem", "node.key"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn what_holds_longer_is_shown_and_it_must_be_this_nodes() {
    let place = Place::new();
    place.give(4, HOUR);
    let given = Own::open(&place.config).await.unwrap().credentials.validity();
    place.give(4, HOUR / 2);
    let (key, chain) = (std::fs::read(&place.config.tls.key), std::fs::read(&place.config.tls.certificate));
    std::fs::write(&place.config.identity.file, [key.unwrap(), chain.unwrap()].concat()).unwrap();
    std::fs::set_permissions(&place.config.identity.file, std::fs::Permissions::from_mode(0o600)).unwrap();
    place.give(4, HOUR);
    let longer = Own::open(&place.config).await.unwrap().credentials.validity();
    assert!(longer.not_after >= given.not_after, "the given one holds longer than its own");
    place.give(4, HOUR / 4);
    let own = Own::open(&place.config).await.unwrap().credentials.validity();
    assert!(own.length() > HOUR / 3 && own.length() < HOUR * 3 / 4, "its own holds longer: {own:?}");
    place.give(5, HOUR);
    let text = place.refused().await;
    assert!(text.contains("node 5 of fra") && text.contains("node 4 of fra"), "{text}");
}

#[tokio::test]
async fn keys_and_tokens_that_others_can_read_are_refused_with_the_command_to_run() {
    let place = Place::new();
    place.give(4, HOUR);
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    open(&place.config.tls.key);
    let text = place.refused().await;
    assert!(text.contains("chmod 600") && text.contains("node.key"), "{text}");
    std::fs::remove_file(&place.config.tls.certificate).unwrap();
    place.put_token();
    open(&place.config.identity.token);
    let text = place.refused().await;
    assert!(text.contains("chmod 600") && text.contains("identity.token"), "{text}");
}

#[tokio::test]
async fn a_lost_answer_costs_an_attempt_and_not_the_token() {
    let mut place = Place::new();
    place.put_token();
    let busy = EnrolReply::Error(ErrorReply::new(Code::RateLimited, "come back").retry_after_ms(1));
    let keys = place.door(vec![None, Some(busy)]);
    let own = Own::open(&place.config).await.unwrap();
    assert_eq!(own.credentials.identity().unwrap(), own.identity);
    let keys = keys.lock().unwrap().clone();
    assert_eq!(keys.len(), 3);
    assert!(
        keys.iter().all(|key| *key == keys[0]),
        "it came with one key: the cloud gives no other a certificate"
    );
    assert!(!place.config.identity.token.exists());
    let mut left: Vec<_> =
        std::fs::read_dir(place.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["identity.pem", "pki"], "nothing else is left");
    // The next start has no need of the cloud.
    place.config.identity.enrol = "127.0.0.1:1".into();
    Own::open(&place.config).await.unwrap();
}

#[tokio::test]
async fn a_refused_token_is_the_end_only_for_who_has_nothing_else() {
    let mut place = Place::new();
    place.put_token();
    drop(place.door(vec![
        error(Code::Unauthenticated),
        error(Code::Forbidden),
        error(Code::Unauthenticated),
    ]));
    for _ in 0..2 {
        let text = place.refused().await;
        assert!(text.contains("refused to enrol node 4 of fra") && text.contains("said so"), "{text}");
    }
    place.give(4, HOUR);
    Own::open(&place.config).await.unwrap();
    assert!(place.config.identity.token.exists(), "it is kept: the next start tries again");
}
