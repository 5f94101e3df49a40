//! What names a response: where it comes from and what was asked for there; and the tags by which many are named at once.

use std::fmt;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName};
use proto::purge::PurgeKey;

use crate::rules::directives::members;

/// Longest path and query, in bytes.
pub const TARGET_BYTES_MAX: usize = 4 * 1024;
/// Most tags of a response; what is beyond is not known by its tag, so the response is not stored.
pub const TAGS_LEN_MAX: usize = 64;
/// Longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;

/// Comma-separated, as Cloudflare and Akamai have it.
pub const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
/// Separated by spaces, as Fastly and Varnish have it.
pub const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// A resource: scheme, host and port of its origin, path and query.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    root: Arc<str>,
    target: Box<str>,
}

impl Key {
    /// `root`: `https://shop.example:8443`. `None`: the target is too long, stands in no request, or could lead out of the origin's path.
    pub fn new(root: &Arc<str>, target: &str) -> Option<Self> {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let fits = target.len() <= TARGET_BYTES_MAX
            && path.starts_with('/')
            && path_is_plain(path)
            && is_uri(target);
        fits.then(|| Self { root: Arc::clone(root), target: target.into() })
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Another resource of the same origin, by a reference to it (RFC 3986, 5.2, without dots). `None`: it is not of the same origin.
    pub fn sibling(&self, reference: &str) -> Option<Self> {
        let reference = reference.split('#').next().unwrap_or_default().trim();
        if reference.is_empty() {
            return Some(self.clone());
        }
        if let Some(target) = reference.strip_prefix(&*self.root) {
            return Self::new(&self.root, if target.is_empty() { "/" } else { target });
        }
        if reference.starts_with("//")
            || reference.split(['/', '?']).next().is_some_and(|first| first.contains(':'))
        {
            return None;
        }
        if reference.starts_with('/') {
            return Self::new(&self.root, reference);
        }
        let path = self.target.split_once('?').map_or(&*self.target, |(path, _)| path);
        // A query alone is of the same path (RFC 3986, 5.2.2).
        let folder = if reference.starts_with('?') { path } else { &path[..=path.rfind('/')?] };
        Self::new(&self.root, &format!("{folder}{reference}"))
    }

    /// Under what it is purged.
    pub fn purge_key(&self) -> PurgeKey {
        PurgeKey::of_url(&self.to_string())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.root, self.target)
    }
}

/// Whether it can be asked for: a path from a catalog may have a space in it, say.
fn is_uri(target: &str) -> bool {
    // Most have nothing to doubt.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%?=&+,:;@!$'()*".contains(&byte);
    target.bytes().all(plain) || PathAndQuery::try_from(target).is_ok_and(|read| read.as_str() == target)
}

/// Whether no part of a path is `.` or `..`, however it is written: an origin may take those for steps upward. Some (Tomcat, say) first
/// leave out what stands behind a semicolon in each part (RFC 3986, 3.3).
pub fn path_is_plain(path: &str) -> bool {
    // Most have nothing that could be one.
    if !path.contains(['%', '\\']) && !path.contains("/.") {
        return true;
    }
    let dots = |part: &str| {
        let part = part.split(';').next().unwrap_or_default().replace("%2e", ".");
        part == "." || part == ".."
    };
    !path
        .replace(['\\'], "/")
        .to_ascii_lowercase()
        .replace("%2f", "/")
        .replace("%5c", "/")
        .replace("%3b", ";")
        .split('/')
        .any(dots)
}

/// Under which tags a response is purged. `None`: it has more of them, or longer ones, than are kept.
pub fn tags(response: &HeaderMap) -> Option<Vec<PurgeKey>> {
    let text = |name: &HeaderName| {
        response.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect::<Vec<_>>()
    };
    let (lists, words) = (text(&CACHE_TAG), text(&SURROGATE_KEY));
    let listed = lists.iter().flat_map(|line| members(line));
    let all: Vec<&str> = listed.chain(words.iter().flat_map(|line| line.split_ascii_whitespace())).collect();
    if all.len() > TAGS_LEN_MAX || all.iter().any(|tag| tag.len() > TAG_BYTES_MAX) {
        return None;
    }
    let mut tags: Vec<PurgeKey> = all.into_iter().map(PurgeKey::of_tag).collect();
    tags.sort_unstable();
    tags.dedup();
    Some(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(root: &str, target: &str) -> Option<Key> {
        Key::new(&root.into(), target)
    }

    #[test]
    fn tags_are_read_in_both_forms() {
        let mut headers = HeaderMap::new();
        headers.append(CACHE_TAG, "shop, item-1 ,, shop".parse().unwrap());
        headers.append(CACHE_TAG, "b c".parse().unwrap());
        headers.append(SURROGATE_KEY, "x  y shop".parse().unwrap());
        let mut expected: Vec<_> = ["b c", "item-1", "shop", "x", "y"].map(PurgeKey::of_tag).into();
        expected.sort_unstable();
        assert_eq!(tags(&headers), Some(expected));
        headers.append(CACHE_TAG, "z".repeat(TAG_BYTES_MAX + 1).parse().unwrap());
        assert_eq!(tags(&headers), None);
        headers.clear();
        assert_eq!(tags(&headers), Some(vec![]));
        let many: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
        headers.append(CACHE_TAG, many.join(",").parse().unwrap());
        assert_eq!(tags(&headers), None);
    }

    #[test]
    fn host_and_scheme_are_of_the_key() {
        assert_ne!(key("https://a", "/x"), key("http://a", "/x"));
        assert_ne!(key("https://a", "/x").unwrap().purge_key(), key("https://b", "/x").unwrap().purge_key());
        assert!(key("https://a", &"x".repeat(TARGET_BYTES_MAX + 1)).is_none());
    }

    #[test]
    fn nothing_leads_out_of_the_path() {
        for out in [
            "/a/../b",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/..",
            "/./a",
            "/a%2f..%2fb",
            "/a\\..\\b",
            "/%5c..",
            "a",
            "/a/..;x/b",
            "/.%2e%3B/b",
        ] {
            assert!(key("https://a", out).is_none(), "{out}");
        }
        for plain in ["/", "/a..b/c.", "/...", "/a?b=../..", "/.well-known/x", "/a;b/c;.."] {
            assert!(key("https://a", plain).is_some(), "{plain}");
        }
    }

    #[test]
    fn references_are_resolved_within_the_origin() {
        let here = key("https://a", "/x/y?z").unwrap();
        for (reference, target) in [
            ("/b", "/b"),
            ("b?c#d", "/x/b?c"),
            ("https://a/d", "/d"),
            ("https://a", "/"),
            ("?c", "/x/y?c"),
            ("", "/x/y?z"),
            ("#d", "/x/y?z"),
        ] {
            assert_eq!(
                here.sibling(reference).map(|key| key.target.into()),
                Some(target.to_owned()),
                "{reference}"
            );
        }
        for other in ["https://b/d", "//b/d", "http://a/d", "../x", "mailto:a"] {
            assert_eq!(here.sibling(other), None, "{other}");
        }
    }
}
