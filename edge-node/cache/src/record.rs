//! A stored response in bytes: a sum, then all of it but its body, of which it has the place and the sum.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use crc::{CRC_32_ISO_HDLC, Crc};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proto::codec;
use proto::purge::PurgeKey;
use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::key::Key;
use crate::rules::freshness::Exchange;
use crate::rules::reuse::Terms;
use crate::rules::vary::Selecting;

const SUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// Of the head; another version is not read.
const VERSION: u8 = 1;

/// Where a body lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// From which byte on.
    pub at: u64,
    /// How many.
    pub len: u64,
    /// Their sum.
    sum: u32,
}

impl Place {
    /// The place of a body that is written at `at`.
    pub fn of(body: &[u8], at: u64) -> Self {
        Self { at, len: body.len() as u64, sum: SUM.checksum(body) }
    }

    /// Whether these are the bytes that were written.
    pub fn holds(&self, body: &[u8]) -> bool {
        body.len() as u64 == self.len && SUM.checksum(body) == self.sum
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    version: u8,
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    asked: Duration,
    came: Duration,
    selecting: Vec<(String, Option<Vec<u8>>)>,
    known_by: Vec<PurgeKey>,
    born: u64,
    body: Place,
}

/// What the keys of all responses of a resource begin with.
pub fn prefix(key: &Key) -> Vec<u8> {
    let mut bytes = key.to_string().into_bytes();
    bytes.push(0);
    bytes
}

/// The key of one of them.
pub fn key(key: &Key, selecting: &Selecting) -> Vec<u8> {
    let mut text = String::new();
    for (name, value) in selecting {
        text.push_str(&format!("{name}:{value:?}\n"));
    }
    let mut bytes = prefix(key);
    bytes.extend_from_slice(&PurgeKey::of_tag(&text).0.to_be_bytes());
    bytes
}

/// Encodes a response.
pub fn encode(entry: &Entry, body: Place) -> Vec<u8> {
    let since = |moment: SystemTime| moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let field =
        |(name, value): (&HeaderName, &HeaderValue)| (name.as_str().to_owned(), value.as_bytes().to_vec());
    let selected = |(name, value): &(HeaderName, Option<Vec<u8>>)| (name.as_str().to_owned(), value.clone());
    let head = codec::encode_any(&Head {
        version: VERSION,
        status: entry.status.as_u16(),
        headers: entry.headers.iter().map(field).collect(),
        asked: since(entry.exchange.asked),
        came: since(entry.exchange.came),
        selecting: entry.selecting.iter().map(selected).collect(),
        known_by: entry.known_by.clone(),
        born: entry.born,
        body,
    });
    [&SUM.checksum(&head).to_be_bytes()[..], &head].concat()
}

/// Decodes one, and where its body lies; `None`: it is damaged, or of another version.
pub fn decode(bytes: &[u8]) -> Option<(Entry, Place)> {
    let (sum, head) = bytes.split_first_chunk::<4>()?;
    if SUM.checksum(head) != u32::from_be_bytes(*sum) {
        return None;
    }
    let head: Head = codec::decode_any(head).ok().filter(|head: &Head| head.version == VERSION)?;
    let mut headers = HeaderMap::new();
    for (name, value) in head.headers {
        let (name, value) = (HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
        // There may be more than a header holds, where they were not written here.
        headers.try_append(name, value).ok()?;
    }
    let selecting =
        head.selecting.into_iter().map(|(name, value)| Some((HeaderName::try_from(name).ok()?, value)));
    let status = StatusCode::from_u16(head.status).ok()?;
    let exchange = Exchange {
        asked: SystemTime::UNIX_EPOCH.checked_add(head.asked)?,
        came: SystemTime::UNIX_EPOCH.checked_add(head.came)?,
    };
    let terms = Terms::of(status, &headers, exchange);
    let entry = Entry {
        status,
        headers,
        exchange,
        terms,
        selecting: selecting.collect::<Option<Selecting>>()?,
        known_by: head.known_by,
        born: head.born,
        body: Bytes::new(),
    };
    Some((entry, head.body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_was_damaged_is_not() {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", HeaderValue::from_bytes(b"a=\xff").unwrap());
        headers.append("set-cookie", "b=1".parse().unwrap());
        let came = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
        let exchange = Exchange { asked: came - Duration::from_millis(7), came };
        let terms = Terms::of(StatusCode::NOT_FOUND, &headers, exchange);
        let entry = Entry {
            status: StatusCode::NOT_FOUND,
            headers,
            exchange,
            terms,
            selecting: vec![(http::header::ACCEPT, Some(b"x".to_vec())), (http::header::ORIGIN, None)],
            known_by: vec![PurgeKey(7)],
            born: 42,
            body: Bytes::new(),
        };
        let place = Place::of(b"a body", 7);
        assert!(place.holds(b"a body") && !place.holds(b"a bodx") && !place.holds(b"a body "));
        let bytes = encode(&entry, place);
        assert_eq!(decode(&bytes), Some((entry.clone(), place)));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), None, "{at}");
            assert_eq!(decode(&bytes[..at]), None);
        }
        let key_of = |selecting: &Selecting| key(&Key::new(&"http://a".into(), "/b").unwrap(), selecting);
        assert_ne!(key_of(&entry.selecting), key_of(&vec![]));
    }

    #[test]
    fn more_fields_than_a_header_holds_are_damage() {
        let head = codec::encode_any(&Head {
            version: VERSION,
            status: 200,
            headers: (0..40_000).map(|n| (format!("x-{n}"), vec![])).collect(),
            asked: Duration::ZERO,
            came: Duration::ZERO,
            selecting: vec![],
            known_by: vec![],
            born: 0,
            body: Place::of(b"", 0),
        });
        assert_eq!(decode(&[&SUM.checksum(&head).to_be_bytes()[..], &head].concat()), None);
    }
}
