//! Stored values: one byte of version, then the value. A type knows the version before it, and thereby all of them, so
//! that a node reads what an older one wrote.

use proto::Event;
use proto::codec::{self, CodecError};
use proto::profile::{Profile, Profile1};
use proto::purge::Purges;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Bundles, Chunk, DedupeHead, Erasures, MachineError, Members, Offsets, Position};

/// A value of the keyspace.
pub trait Stored: Serialize + DeserializeOwned {
    /// Its version; one more than [`Stored::Previous`]'s.
    const VERSION: u8;
    /// What it was before. [`First`] where there is nothing before.
    type Previous: Stored + Into<Self>;
}

/// Stands before the first version of a type: there is no value of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum First {}

impl Stored for First {
    const VERSION: u8 = 0;
    type Previous = First;
}

macro_rules! first_version {
    ($($name:ty),*) => {$(
        impl From<First> for $name {
            fn from(never: First) -> Self {
                match never {}
            }
        }
        first_version!(@stored $name);
    )*};
    (@stored $name:ty) => {
        impl Stored for $name {
            const VERSION: u8 = 1;
            type Previous = First;
        }
    };
}
first_version!(Position, Offsets, DedupeHead, Bundles, Members, Chunk, Erasures);

macro_rules! first_version_of_proto {
    ($($name:ty),*) => {$(
        // The orphan rule forbids `From<First> for` a type of another crate; `Into` on ours says the same.
        #[expect(clippy::from_over_into, reason = "the target is a type of another crate")]
        impl Into<$name> for First {
            fn into(self) -> $name {
                match self {}
            }
        }
        first_version!(@stored $name);
    )*};
}
first_version_of_proto!(Profile1, Event, Purges);

impl Stored for Profile {
    const VERSION: u8 = 2;
    type Previous = Profile1;
}

/// Encodes a value in its present version.
pub fn encode<T: Stored>(value: &T) -> Vec<u8> {
    let body = codec::encode_any(value);
    let mut bytes = Vec::with_capacity(1 + body.len());
    bytes.push(T::VERSION);
    bytes.extend_from_slice(&body);
    bytes
}

/// Reads a value of the present or any earlier version.
///
/// # Errors
/// Where the bytes are of no known version, or not a value of theirs.
pub fn decode<T: Stored>(bytes: &[u8]) -> Result<T, CodecError> {
    let (&version, body) =
        bytes.split_first().ok_or_else(|| CodecError::Malformed("an empty value has no version".into()))?;
    decode_version(version, body)
}

fn decode_version<T: Stored>(version: u8, body: &[u8]) -> Result<T, CodecError> {
    if version == T::VERSION && version != First::VERSION {
        codec::decode_any(body)
    } else if version < T::VERSION && T::VERSION > First::VERSION + 1 {
        decode_version::<T::Previous>(version, body).map(Into::into)
    } else {
        Err(CodecError::Malformed(format!("version {version} of a value, at most {} is known", T::VERSION)))
    }
}

/// Reads the value at a key.
///
/// # Errors
/// As [`decode`], naming the key.
pub fn decode_at<T: Stored>(key: &[u8], bytes: &[u8]) -> Result<T, MachineError> {
    decode(bytes).map_err(|source| {
        let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
        MachineError::Corrupt { key, source }
    })
}

#[cfg(test)]
mod tests {
    use proto::ItemId;
    use proto::profile::{Interaction, Signal};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Old {
        count: u32,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        count: u64,
        name: String,
    }
    first_version!(Old);
    impl From<Old> for New {
        fn from(old: Old) -> Self {
            Self { count: old.count.into(), name: "unnamed".into() }
        }
    }
    impl Stored for New {
        const VERSION: u8 = 2;
        type Previous = Old;
    }

    #[test]
    fn the_version_before_is_read() {
        let old = encode(&Old { count: 7 });
        assert_eq!(decode::<New>(&old).unwrap(), New { count: 7, name: "unnamed".into() });
        let new = New { count: 1 << 40, name: "n".into() };
        assert_eq!(decode::<New>(&encode(&new)).unwrap(), new);
    }

    #[test]
    fn a_profile_of_version_1_is_read_in_the_order_of_its_times() {
        let met = |item: &str, at_ms| Interaction {
            item: ItemId::new(item).unwrap(),
            signal: Signal::Click,
            stars: 0.0,
            at_ms,
        };
        let old = Profile1 {
            interactions: vec![met("new", 2_000), met("late", 1_000)],
            traits: vec![("plan".into(), "free".into())],
            events: 3,
            version: 3,
            ..Profile1::default()
        };
        let read: Profile = decode(&encode(&old)).unwrap();
        assert_eq!(read.interactions, [met("late", 1_000), met("new", 2_000)]);
        assert_eq!((read.events, read.trait_times, read.erased_at_ms), (3, vec![0], 0));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let mut bytes = encode(&Old { count: 7 });
        for version in [0, 3, 255] {
            bytes[0] = version;
            assert!(matches!(decode::<New>(&bytes), Err(CodecError::Malformed(_))), "version {version}");
        }
        assert!(decode::<New>(&[]).is_err());
        bytes[0] = 2;
        assert!(decode::<Old>(&bytes).is_err(), "a newer version than this code");
    }
}
