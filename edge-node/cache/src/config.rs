//! Settings of the cache and of its origins.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use serde::Deserialize;

use crate::key::path_is_plain;

/// The cache.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// Memory for stored responses, in bytes.
    pub memory_bytes: u64,
    /// Disk for them, in bytes; 0: memory only.
    pub disk_bytes: u64,
    /// Largest body that is stored, in bytes.
    pub object_bytes_max: u64,
    /// Most requests to origins at once.
    pub fetches_max: usize,
    /// For how long a 404 or 410 is kept that does not say, in seconds.
    pub negative_s: u64,
    /// For how long after its end a response may be served when its origin cannot be reached and nobody says, in seconds.
    pub offline_s: u64,
    /// Where content comes from.
    pub origins: Vec<OriginConfig>,
}

/// Where content comes from: `/c/{name}/…`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginConfig {
    /// Its name in our paths: letters, digits, `-` and `_`.
    pub name: String,
    /// `https://host[:port][/path]`, without a slash at its end; or `http://…`.
    pub url: String,
    /// PEM file of who signs its certificate; empty: whom the system believes.
    #[serde(default)]
    pub ca: PathBuf,
    /// Most requests to it at once, and most connections that are kept.
    #[serde(default = "OriginConfig::connections_max_default")]
    pub connections_max: usize,
    /// How long connecting may take, in milliseconds.
    #[serde(default = "OriginConfig::connect_ms_default")]
    pub connect_ms: u64,
    /// How long the head of a response may take, tries again included, in milliseconds.
    #[serde(default = "OriginConfig::deadline_ms_default")]
    pub deadline_ms: u64,
    /// How long the next part of a body may take, in milliseconds.
    #[serde(default = "OriginConfig::idle_ms_default")]
    pub idle_ms: u64,
    /// How often GET and HEAD are tried again where there was no answer, and nothing stored can stand in.
    #[serde(default = "OriginConfig::retries_default")]
    pub retries: u32,
    /// Path that says whether it is well, by a status below 400; empty: it is not asked.
    #[serde(default)]
    pub health: String,
    /// How often, in milliseconds.
    #[serde(default = "OriginConfig::health_every_ms_default")]
    pub health_every_ms: u64,
}

impl OriginConfig {
    fn connections_max_default() -> usize {
        64
    }

    fn connect_ms_default() -> u64 {
        2_000
    }

    fn deadline_ms_default() -> u64 {
        10_000
    }

    fn idle_ms_default() -> u64 {
        10_000
    }

    fn retries_default() -> u32 {
        2
    }

    fn health_every_ms_default() -> u64 {
        5_000
    }

    /// The URL in parts.
    pub(crate) fn parsed(&self) -> Result<Place, String> {
        let wrong = |why: &str| format!("cache.origins {:?}: url {:?} {why}", self.name, self.url);
        let uri: Uri = self.url.parse().map_err(|error| wrong(&format!("cannot be read: {error}")))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("needs http:// or https:// and a host"));
        };
        let secure = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(wrong("is neither http:// nor https://")),
        };
        if authority.as_str().contains('@') {
            return Err(wrong("must not have a user: send headers from the application instead"));
        }
        if uri.query().is_some() || self.url.ends_with('/') && uri.path() != "/" || self.url.contains('#') {
            return Err(wrong("must have no query, no fragment and no slash at its end"));
        }
        if !path_is_plain(uri.path()) {
            return Err(wrong("must have no `.` or `..` in its path"));
        }
        let root = format!("{scheme}://{}", authority.as_str().to_ascii_lowercase());
        Ok(Place { secure, root, base: uri.path().trim_end_matches('/').to_owned() })
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(letters) {
            return Err(format!(
                "cache.origins: the name {:?} must be 1 to 63 letters, digits, `-` or `_`",
                self.name
            ));
        }
        for (name, value) in [
            ("connections_max", self.connections_max as u64),
            ("connect_ms", self.connect_ms),
            ("deadline_ms", self.deadline_ms),
            ("idle_ms", self.idle_ms),
            ("health_every_ms", self.health_every_ms),
        ] {
            if value == 0 {
                return Err(format!("cache.origins {:?}: {name} must be at least 1", self.name));
            }
        }
        if !(self.health.is_empty() || self.health.starts_with('/')) {
            return Err(format!("cache.origins {:?}: health must begin with a slash", self.name));
        }
        if PathAndQuery::try_from(self.health.as_str()).is_err() && !self.health.is_empty() {
            let health = &self.health;
            return Err(format!("cache.origins {:?}: health is {health:?}, no path of a URL", self.name));
        }
        self.parsed().map(drop)
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

/// A URL in parts.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) secure: bool,
    /// Scheme and authority.
    pub(crate) root: String,
    /// Path before every path; empty, or with a slash at its beginning and none at its end.
    pub(crate) base: String,
}

impl CacheConfig {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// Says which setting is wrong, and how.
    pub fn check(&self) -> Result<(), String> {
        if self.fetches_max == 0 || self.object_bytes_max == 0 {
            return Err("cache.fetches_max and cache.object_bytes_max must be at least 1".to_owned());
        }
        if self.object_bytes_max > self.memory_bytes / 8 {
            return Err(format!(
                "cache.object_bytes_max ({}) is at most an eighth of cache.memory_bytes ({})",
                self.object_bytes_max, self.memory_bytes
            ));
        }
        for (at, origin) in self.origins.iter().enumerate() {
            origin.check()?;
            if self.origins[..at].iter().any(|other| other.name == origin.name) {
                return Err(format!("cache.origins: {:?} stands there twice", origin.name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(name: &str, url: &str) -> OriginConfig {
        let table = format!("name = {name:?}\nurl = {url:?}");
        toml::from_str(&table).unwrap()
    }

    #[test]
    fn a_url_is_taken_apart() {
        let place = origin("shop", "https://Shop.example:8443/public/images").parsed().unwrap();
        assert_eq!(
            (place.root.as_str(), place.base.as_str()),
            ("https://shop.example:8443", "/public/images")
        );
        let place = origin("shop", "http://127.0.0.1:80").parsed().unwrap();
        assert_eq!((place.secure, place.base.as_str()), (false, ""));
    }

    #[test]
    fn what_is_no_origin_is_named() {
        for url in [
            "shop.example",
            "ftp://shop.example",
            "https://user:secret@shop.example",
            "https://shop.example/?a",
            "https://shop.example/a/",
            "https://shop.example/a/../b",
            "https://shop.example/#a",
        ] {
            let error = origin("shop", url).check().unwrap_err();
            assert!(error.contains("shop"), "{error}");
        }
        assert!(origin("", "http://a").check().is_err() && origin("a/b", "http://a").check().is_err());
    }
}
