//! Who may ask for what, and how often: apps by their keys, and addresses. A key names the app and is shown by every copy of it, so
//! what it may do is bounded here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use proto::{Code, Digest, ErrorReply};
use serde::Deserialize;

use super::quota::Quota;

/// What an app may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Ask for recommendations.
    Recommend,
    /// Say what visitors did.
    Track,
    /// Run the models on numbers of its own.
    Infer,
    /// Make stored content void.
    Purge,
}

impl Scope {
    /// Its name in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Recommend => "recommend",
            Scope::Track => "track",
            Scope::Infer => "infer",
            Scope::Purge => "purge",
        }
    }
}

/// An app in the settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppConfig {
    /// For people, and metrics.
    pub name: String,
    /// Of its key, in hex.
    pub key_sha256: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// How often it may ask, all its copies together; 0: as often as it likes.
    #[serde(default)]
    pub requests_per_s: u32,
}

/// An app that is known here.
#[derive(Debug)]
pub struct App {
    /// For people, and metrics.
    pub name: String,
    key: Digest,
    scopes: Vec<Scope>,
    requests_per_s: u32,
    quota: Option<Quota>,
}

/// All that are known, and what is said to all: replaced while the node runs.
#[derive(Debug)]
pub struct Apps {
    present: ArcSwap<Known>,
}

#[derive(Debug)]
struct Known {
    apps: Vec<Arc<App>>,
    addresses: Option<Quota>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// What for.
    pub app: Arc<App>,
    /// From where, as far as it is known.
    pub address: Option<IpAddr>,
}

impl Apps {
    /// Checks the settings.
    pub fn new(apps: &[AppConfig], address_requests_per_s: u32) -> anyhow::Result<Self> {
        let nobody = Known { apps: Vec::new(), addresses: None };
        let known = Known::of(apps, address_requests_per_s, nobody.into())?;
        Ok(Self { present: ArcSwap::from_pointee(known) })
    }

    /// Takes other settings, for those who are connected, too. Who is as before has asked as often as before.
    ///
    /// # Errors
    /// Where they are wrong: then nothing is changed.
    pub fn replace(&self, apps: &[AppConfig], address_requests_per_s: u32) -> anyhow::Result<()> {
        let known = Known::of(apps, address_requests_per_s, self.present.load_full())?;
        self.present.store(Arc::new(known));
        Ok(())
    }

    /// The app with this key.
    pub fn find(&self, key: &str) -> Option<Arc<App>> {
        self.present.load().find(Digest::of(key.as_bytes()))
    }

    /// Lets somebody do something, once.
    ///
    /// # Errors
    /// `unauthenticated` where the key counts no more; `forbidden` for what is not the app's to do; `rate_limited` with when to
    /// come back.
    pub fn permit(&self, caller: &Caller, scope: Scope) -> Result<(), ErrorReply> {
        let Some(app) = self.present.load().find(caller.app.key) else {
            let message = format!("the key of {:?} counts no more (clients.apps)", caller.app.name);
            return Err(ErrorReply::new(Code::Unauthenticated, message));
        };
        if !app.scopes.contains(&scope) {
            let message =
                format!("the key of {:?} is not for {} (clients.apps, scopes)", app.name, scope.as_str());
            return Err(ErrorReply::new(Code::Forbidden, message));
        }
        self.permit_address(caller.address)?;
        if let Some(quota) = &app.quota {
            let why = || format!("{:?} asks too often (clients.apps, requests_per_s)", app.name);
            quota.take(()).map_err(|wait| limited(why(), wait))?;
        }
        Ok(())
    }

    /// Lets somebody of whom nothing but the address is known do something, once.
    ///
    /// # Errors
    /// `rate_limited` with when to come back.
    pub fn permit_address(&self, address: Option<IpAddr>) -> Result<(), ErrorReply> {
        let present = self.present.load();
        let (Some(quota), Some(address)) = (&present.addresses, address) else { return Ok(()) };
        let why = "this address asks too often (clients.address_requests_per_s)";
        quota.take(network(address)).map_err(|wait| limited(why.to_owned(), wait))
    }
}

impl Known {
    fn of(apps: &[AppConfig], address_requests_per_s: u32, before: Arc<Known>) -> anyhow::Result<Self> {
        let app = |config: &AppConfig| {
            let key = Digest::from_hex(&config.key_sha256).ok_or_else(|| {
                let (name, hex) = (&config.name, &config.key_sha256);
                anyhow::anyhow!("clients.apps: key_sha256 of {name:?} is {hex:?}, not 64 hex digits; see `rockpool app-key`")
            })?;
            let AppConfig { name, scopes, requests_per_s, .. } = config.clone();
            let quota = Quota::of_one(requests_per_s);
            let app = App { name, key, scopes, requests_per_s, quota };
            Ok(before.find(key).filter(|known| known.is_as(&app)).unwrap_or_else(|| Arc::new(app)))
        };
        let apps = apps.iter().map(app).collect::<anyhow::Result<_>>()?;
        Ok(Self { apps, addresses: Quota::of_many(address_requests_per_s) })
    }

    fn find(&self, presented: Digest) -> Option<Arc<App>> {
        // Every known hash is compared, so that the time says nothing about which one matched.
        let matches = |app: &&Arc<App>| service::secrets::equal(&app.key.0, &presented.0);
        self.apps.iter().filter(matches).fold(None, |_, app| Some(Arc::clone(app)))
    }
}

impl App {
    fn is_as(&self, other: &App) -> bool {
        let facts = |app: &App| (app.name.clone(), app.key, app.scopes.clone(), app.requests_per_s);
        facts(self) == facts(other)
    }
}

fn limited(message: String, wait: Duration) -> ErrorReply {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    ErrorReply::new(Code::RateLimited, message).retry_after_ms(wait_ms.max(1))
}

/// What one subscriber has: an address of IPv4, a network of 64 bits of IPv6 (RFC 6177).
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}

/// The address of `host:port`, where it is one.
pub fn address_of(remote: &str) -> Option<IpAddr> {
    remote.parse().ok().map(|remote: SocketAddr| remote.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(scopes: &[Scope], requests_per_s: u32, address_requests_per_s: u32) -> Apps {
        let key_sha256 = Digest::of(b"key").to_string();
        let app = AppConfig { name: "shop".into(), key_sha256, scopes: scopes.to_vec(), requests_per_s };
        Apps::new(&[app], address_requests_per_s).unwrap()
    }

    fn caller(apps: &Apps, address: &str) -> Caller {
        Caller { app: apps.find("key").unwrap(), address: Some(address.parse().unwrap()) }
    }

    #[test]
    fn a_key_opens_what_it_is_for() {
        let apps = apps(&[Scope::Track], 0, 0);
        assert!(apps.find("another").is_none());
        let caller = caller(&apps, "192.0.2.1");
        assert_eq!(apps.permit(&caller, Scope::Track), Ok(()));
        assert_eq!(apps.permit(&caller, Scope::Infer).unwrap_err().code, Code::Forbidden);
    }

    #[test]
    fn who_asks_too_often_hears_when_to_come_back() {
        let apps = apps(&[Scope::Recommend], 0, 2);
        let (one, other) = (caller(&apps, "2001:db8::1"), caller(&apps, "2001:db8:0:1::1"));
        let same_network = caller(&apps, "2001:db8::2");
        assert!(
            apps.permit(&one, Scope::Recommend).is_ok()
                && apps.permit(&same_network, Scope::Recommend).is_ok()
        );
        let limited = apps.permit(&one, Scope::Recommend).unwrap_err();
        assert_eq!(limited.code, Code::RateLimited);
        assert!(limited.retry_after_ms.is_some_and(|ms| (1..=500).contains(&ms)), "{limited:?}");
        assert!(apps.permit(&other, Scope::Recommend).is_ok());
    }

    #[test]
    fn an_app_has_one_quota_wherever_it_runs() {
        let apps = apps(&[Scope::Recommend], 1, 0);
        assert!(apps.permit(&caller(&apps, "192.0.2.1"), Scope::Recommend).is_ok());
        assert!(apps.permit(&caller(&apps, "192.0.2.2"), Scope::Recommend).is_err());
    }

    #[test]
    fn keys_change_for_those_who_are_connected_too() {
        let apps = apps(&[Scope::Recommend], 1, 0);
        let connected = caller(&apps, "192.0.2.1");
        apps.permit(&connected, Scope::Recommend).unwrap();
        let config = |key: &[u8], scopes: Vec<Scope>| AppConfig {
            name: "shop".into(),
            key_sha256: Digest::of(key).to_string(),
            scopes,
            requests_per_s: 1,
        };
        apps.replace(&[config(b"key", vec![Scope::Recommend])], 0).unwrap();
        let again = apps.permit(&connected, Scope::Recommend).unwrap_err();
        assert_eq!(again.code, Code::RateLimited, "what is as before has asked as often as before");
        apps.replace(&[config(b"key", vec![Scope::Track])], 0).unwrap();
        assert_eq!(apps.permit(&connected, Scope::Recommend).unwrap_err().code, Code::Forbidden);
        apps.replace(&[config(b"other", vec![Scope::Recommend])], 0).unwrap();
        assert_eq!(apps.permit(&connected, Scope::Recommend).unwrap_err().code, Code::Unauthenticated);
        assert!(apps.find("key").is_none() && apps.find("other").is_some());
        let wrong = AppConfig { key_sha256: "x".into(), ..config(b"", vec![]) };
        assert!(apps.replace(&[wrong], 0).is_err());
        assert!(apps.find("other").is_some(), "what is wrong changes nothing");
    }

    #[test]
    fn what_is_no_hash_is_said_with_its_name() {
        let app =
            AppConfig { name: "shop".into(), key_sha256: "x".into(), scopes: vec![], requests_per_s: 0 };
        assert!(Apps::new(&[app], 0).unwrap_err().to_string().contains("\"shop\""));
    }
}
