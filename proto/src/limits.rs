//! Named maxima. Whatever comes from a network or a file is measured against one of these before memory is taken.

/// Longest text id (visitor, item, PoP, slot …), in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 128;
/// Most events in one `Track` request.
pub const TRACK_EVENTS_MAX: usize = 500;
/// Most name–value pairs in a custom event, in a request's context or in a profile's traits.
pub const ATTRIBUTES_MAX: usize = 32;
/// Longest attribute value, in bytes of UTF-8.
pub const ATTRIBUTE_BYTES_MAX: usize = 512;
/// Most items one `Recommend` request may ask for.
pub const RECOMMEND_COUNT_MAX: usize = 100;
/// Most items a `Recommend` request may exclude.
pub const EXCLUDE_ITEMS_MAX: usize = 500;
/// Interactions a profile remembers; older ones fall off its ring.
pub const PROFILE_RING_LEN: usize = 200;
/// Served and seen items a profile remembers.
pub const PROFILE_SEEN_LEN: usize = 400;
/// Most events in one uplink `Append`.
pub const APPEND_EVENTS_MAX: usize = 2_000;
/// Bytes of an artifact carried by one reply.
pub const ARTIFACT_PART_BYTES: usize = 512 * 1024;
/// Largest artifact (one file of a bundle), in bytes.
pub const ARTIFACT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Most artifacts in one bundle.
pub const BUNDLE_ARTIFACTS_MAX: usize = 64;
/// Most items in one catalog.
pub const CATALOG_ITEMS_MAX: usize = 1_000_000;
/// How far ahead of the node's clock an event may claim to be, in milliseconds.
pub const EVENT_FUTURE_MS_MAX: u64 = 5 * 60 * 1000;
/// Longest one-time token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 128;
/// Largest signing request of a node, in bytes. One with a P-256 key has about 300.
pub const SIGNING_REQUEST_BYTES_MAX: usize = 4 * 1024;
/// Most names that apps dial in one certificate.
pub const PUBLIC_NAMES_MAX: usize = 16;
/// Most revoked nodes of one PoP.
pub const REVOKED_NODES_MAX: usize = 10_000;
/// Message of an error reply is cut at this many bytes.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 512;
/// Nodes of a PoP, those that do not vote yet included.
pub const MEMBERS_LEN_MAX: usize = 15;
/// Most caps in the rules of a bundle.
pub const CAPS_MAX: usize = 8;
/// Most fields of items that a `Recommend` request may ask for.
pub const FIELDS_MAX: usize = 32;
/// Most bytes of items' fields in one answer.
pub const DETAILS_BYTES_MAX: usize = 512 * 1024;
/// Most erasures in one reply of the cloud.
pub const ERASURES_MAX: usize = 500;
