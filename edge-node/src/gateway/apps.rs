//! Who may ask for what, and how often: apps by their keys, and addresses. A key names the app and is shown by every copy of it, so
//! what it may do is bounded here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

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
    quota: Option<Quota>,
}

/// All that are known, and what is said to all.
#[derive(Debug)]
pub struct Apps {
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
        let app = |config: &AppConfig| {
            let key = Digest::from_hex(&config.key_sha256).ok_or_else(|| {
                let (name, hex) = (&config.name, &config.key_sha256);
                anyhow::anyhow!("clients.apps: key_sha256 of {name:?} is {hex:?}, not 64 hex digits; see `rockpool app-key`")
            })?;
            let (name, scopes) = (config.name.clone(), config.scopes.clone());
            Ok(Arc::new(App { name, key, scopes, quota: Quota::of_one(config.requests_per_s) }))
        };
        let apps = apps.iter().map(app).collect::<anyhow::Result<_>>()?;
        Ok(Self { apps, addresses: Quota::of_many(address_requests_per_s) })
    }

    /// The app with this key.
    pub fn find(&self, key: &str) -> Option<Arc<App>> {
        let presented = Digest::of(key.as_bytes());
        // Every known hash is compared, so that the time says nothing about which one matched.
        let matches = |app: &&Arc<App>| service::secrets::equal(&app.key.0, &presented.0);
        self.apps.iter().filter(matches).fold(None, |_, app| Some(Arc::clone(app)))
    }

    /// Lets somebody do something, once.
    ///
    /// # Errors
    /// `forbidden` for what is not the app's to do; `rate_limited` with when to come back.
    pub fn permit(&self, caller: &Caller, scope: Scope) -> Result<(), ErrorReply> {
        let app = &caller.app;
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
        let (Some(quota), Some(address)) = (&self.addresses, address) else { return Ok(()) };
        let why = "this address asks too often (clients.address_requests_per_s)";
        quota.take(network(address)).map_err(|wait| limited(why.to_owned(), wait))
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
    fn what_is_no_hash_is_said_with_its_name() {
        let app =
            AppConfig { name: "shop".into(), key_sha256: "x".into(), scopes: vec![], requests_per_s: 0 };
        assert!(Apps::new(&[app], 0).unwrap_err().to_string().contains("\"shop\""));
    }
}
