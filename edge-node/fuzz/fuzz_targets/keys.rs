//! Any two lines, a path and a reference: what names a resource never leads out of its origin, and is the same however it is written.

#![no_main]

use std::sync::{Arc, LazyLock};

use edge_cache::key::{Key, TARGET_BYTES_MAX};
use edge_cache::ledger::{Known, Ledger};
use edge_cache::{Cache, CacheConfig, Metrics};
use libfuzzer_sys::fuzz_target;
use proto::purge::Purges;
use serde_json::json;

// Without TLS: that would look for certificates.
const ROOT: &str = "http://shop.example:8443";
const BASE: &str = "/base";

static CACHE: LazyLock<Cache> = LazyLock::new(|| {
    let config = json!({
        "memory_bytes": 8, "disk_bytes": 0, "object_bytes_max": 1, "fetches_max": 1, "negative_s": 1, "offline_s": 1,
        "origins": [{"name": "shop", "url": format!("{ROOT}{BASE}")}],
    });
    let config: CacheConfig = serde_json::from_value(config).expect("they are all settings");
    // It keeps up tasks; none of them has to run.
    let runtime = Box::leak(Box::new(tokio::runtime::Builder::new_current_thread().enable_time().build()));
    let _entered = runtime.as_ref().expect("a runtime without IO").enter();
    let metrics = Metrics::new(&prometheus::Registry::new()).expect("they are registered once");
    Cache::open(config, "/nowhere".as_ref(), Arc::new(Nothing), metrics).expect("sound settings")
});

struct Nothing;

impl Ledger for Nothing {
    fn known(&self) -> Known {
        Known { purges: Arc::new(Purges::default()), upto: 0, certain: true }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (target, reference) = text.split_once('\n').unwrap_or((text, ""));
    if let Some(key) = Key::new(&ROOT.into(), target) {
        sound(&key);
        assert_eq!(key.target(), target);
        related(&key, reference);
    }
    located(target);
    if let Some(path) = CACHE.path_here("shop", target) {
        assert!(path.starts_with("/c/shop/"));
    }
});

/// No step upward is in it, once an origin has read it.
fn sound(key: &Key) {
    assert!(key.target().len() <= TARGET_BYTES_MAX && key.to_string() == format!("{ROOT}{}", key.target()));
    let path = key.target().split('?').next().unwrap_or_default().as_bytes();
    assert!(path.starts_with(b"/"));
    let decoded = decoded(path);
    let parts = decoded.split(|byte| b"/\\".contains(byte));
    let mut parts = parts.map(|part| part.split(|byte| *byte == b';').next().unwrap_or_default());
    assert!(!parts.any(|part| part == b"." || part == b".."));
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let digit = |at: usize| path.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < path.len() {
        match (path[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

fn related(key: &Key, reference: &str) {
    let (own, other) = (key.target(), key.sibling(reference));
    if let Some(other) = other {
        sound(&other);
        assert!(!other.target().contains('#') || own.contains('#'));
    }
    // References to itself, whole, absolute and empty (RFC 3986, 5.2.2).
    if own.contains('#') || own.trim() != own {
        return;
    }
    assert_eq!(key.sibling(&key.to_string()).as_ref(), Some(key));
    assert!(own.starts_with("//") || key.sibling(own).as_ref() == Some(key));
    assert_eq!(key.sibling("").as_ref(), Some(key));
    assert_eq!(key.sibling("#part").as_ref(), Some(key));
    let path = own.split('?').next().unwrap_or_default();
    let asked = key.sibling("?a");
    assert!(asked.is_none_or(|other| other.target() == format!("{path}?a")));
}

/// A purge says the same of both forms of a URL.
fn located(target: &str) {
    let (whole, here) = (format!("{ROOT}{BASE}{target}"), format!("/c/shop{target}"));
    let whole = CACHE.resource(&whole);
    if target.starts_with('/') {
        assert_eq!(CACHE.resource(&here), whole);
    } else {
        assert_eq!(whole, None);
    }
}
