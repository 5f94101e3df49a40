//! Named maxima of what is read from files.

/// Largest file, in bytes; for Parquet and gzip also the most bytes it may unpack to.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Largest row of a CSV file, in bytes.
pub const ROW_BYTES_MAX: usize = 256 * 1024;
/// Longest title, list of categories or id that is taken, in bytes of UTF-8.
pub const FIELD_BYTES_MAX: usize = 4096;
/// Most columns of a file.
pub const COLUMNS_MAX: usize = 1024;
/// Most rows of a file.
pub const ROWS_MAX: u64 = 50_000_000;
/// Most visitors.
pub const VISITORS_MAX: usize = 10_000_000;
/// Most categories of one item.
pub const CATEGORIES_MAX: usize = 32;
/// Skipped rows that are remembered with their reason, a file.
pub const BAD_ROWS_KEPT_MAX: usize = 20;
/// Different kinds of events that are counted by name when they are not about items.
pub const KINDS_KEPT_MAX: usize = 20;
/// Share of interactions whose item may be missing in the items file: items come and go, but if nearly none is known, the two
/// files do not belong together.
pub const UNLISTED_SHARE_MAX: f64 = 0.9;
/// Ratings that are all equal tell nothing, from this many on.
pub const RATINGS_CONSTANT_MIN: u64 = 20;
