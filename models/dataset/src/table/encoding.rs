//! What a text file is before it is rows: gzip or not, UTF-8 or UTF-16, which separator, which escape.

use std::io::{self, Cursor, Read};

use crate::limits::{FILE_BYTES_MAX, ROW_BYTES_MAX};

/// How the fields of a file are parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    /// Between fields.
    pub(super) delimiter: u8,
    /// Before a quote within quotes, beside doubling it: Spark writes `\"`.
    pub(super) escape: Option<u8>,
    /// Lines before the header line.
    pub(super) skipped: u64,
}

/// Separators, the likeliest first.
const DELIMITERS: [u8; 4] = *b",;\t|";

/// Unpacks gzip, and stops where it unpacks to more than a file may have.
pub(super) fn gunzip(source: impl Read + 'static) -> Box<dyn Read> {
    Box::new(Bounded { source: flate2::read::MultiGzDecoder::new(source), left: FILE_BYTES_MAX })
}

struct Bounded<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it unpacks to more than {FILE_BYTES_MAX} bytes"),
            )
        })?;
        Ok(read)
    }
}

/// The text as UTF-8 from its header line on, and how its fields are parted.
pub(super) fn decoded(
    source: Box<dyn Read>,
    known: &dyn Fn(&str) -> bool,
) -> io::Result<(Box<dyn Read>, Dialect)> {
    let mut source = utf8(source)?;
    let mut head = Vec::new();
    source.by_ref().take(ROW_BYTES_MAX as u64).read_to_end(&mut head)?;
    let (skip, declared) = declared_separator(&head);
    let head = head.split_off(skip);
    let line = header_line(&head);
    let delimiter = declared.unwrap_or_else(|| delimiter(line, known));
    let dialect = Dialect { delimiter, escape: escape(&head, delimiter), skipped: u64::from(skip > 0) };
    Ok((Box::new(Cursor::new(head).chain(source)), dialect))
}

/// A byte order mark, or zeros beside letters, show UTF-16 (RFC 2781); all else is taken as UTF-8, without its mark.
fn utf8(mut source: Box<dyn Read>) -> io::Result<Box<dyn Read>> {
    let mut mark = Vec::new();
    source.by_ref().take(3).read_to_end(&mut mark)?;
    let little = |source, rest: &[u8]| Utf16::boxed(source, rest, u16::from_le_bytes);
    let big = |source, rest: &[u8]| Utf16::boxed(source, rest, u16::from_be_bytes);
    Ok(match mark.as_slice() {
        [0xef, 0xbb, 0xbf] => source,
        [0xff, 0xfe, rest @ ..] => little(source, rest),
        [0xfe, 0xff, rest @ ..] => big(source, rest),
        [low, 0, ..] if *low != 0 => little(source, &mark),
        [0, low, ..] if *low != 0 => big(source, &mark),
        _ => Box::new(Cursor::new(mark).chain(source)),
    })
}

/// Turns UTF-16 into UTF-8.
struct Utf16 {
    source: Box<dyn Read>,
    unit: fn([u8; 2]) -> u16,
    /// The first half of a surrogate pair.
    high: Option<u16>,
    /// Half a unit.
    odd: Option<u8>,
    ready: Cursor<Vec<u8>>,
}

impl Utf16 {
    fn boxed(source: Box<dyn Read>, rest: &[u8], unit: fn([u8; 2]) -> u16) -> Box<dyn Read> {
        let source = Box::new(Cursor::new(rest.to_vec()).chain(source));
        Box::new(Self { source, unit, high: None, odd: None, ready: Cursor::default() })
    }

    fn refill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 8192];
        let len = self.source.read(&mut bytes)?;
        let all: Vec<u8> = self.odd.take().into_iter().chain(bytes[..len].iter().copied()).collect();
        let mut pairs = all.chunks_exact(2);
        let units: Vec<u16> = self
            .high
            .take()
            .into_iter()
            .chain(pairs.by_ref().map(|pair| (self.unit)([pair[0], pair[1]])))
            .collect();
        self.odd = pairs.remainder().first().copied();
        let mut units = units.as_slice();
        if let Some((last @ 0xd800..0xdc00, before)) = units.split_last()
            && len > 0
        {
            (self.high, units) = (Some(*last), before);
        }
        let text: String = char::decode_utf16(units.iter().copied())
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        self.ready = Cursor::new(text.into_bytes());
        // Nothing was decoded but there may be more: the caller would take an empty read for the end.
        if self.ready.get_ref().is_empty() && len > 0 { self.refill() } else { Ok(()) }
    }
}

impl Read for Utf16 {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.ready.read(buffer)?;
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        self.refill()?;
        self.ready.read(buffer)
    }
}

/// Excel's first line `sep=;`: its length with the line's end, and the separator.
fn declared_separator(head: &[u8]) -> (usize, Option<u8>) {
    match head {
        [b's' | b'S', b'e' | b'E', b'p' | b'P', b'=', separator, b'\r', b'\n', ..] => (7, Some(*separator)),
        [b's' | b'S', b'e' | b'E', b'p' | b'P', b'=', separator, b'\r' | b'\n', ..] => (6, Some(*separator)),
        _ => (0, None),
    }
}

/// Up to the first line's end that is not within quotes.
fn header_line(head: &[u8]) -> &[u8] {
    let mut quoted = false;
    let end = head.iter().position(|&byte| {
        quoted ^= byte == b'"';
        !quoted && matches!(byte, b'\n' | b'\r')
    });
    &head[..end.unwrap_or(head.len())]
}

/// The separator that finds the most columns with known names; of equals the one that finds most columns. A space is one only
/// where there is no other.
fn delimiter(line: &[u8], known: &dyn Fn(&str) -> bool) -> u8 {
    if line.contains(&b' ') && !line.iter().any(|byte| DELIMITERS.contains(byte)) {
        return b' ';
    }
    let line = String::from_utf8_lossy(line);
    let score = |delimiter: u8| {
        let names = line.split(char::from(delimiter)).map(|name| name.trim().trim_matches('"'));
        let hits = names.clone().filter(|name| known(name)).count();
        (hits, names.count(), std::cmp::Reverse(DELIMITERS.iter().position(|&d| d == delimiter)))
    };
    DELIMITERS.into_iter().max_by_key(|&delimiter| score(delimiter)).unwrap_or(b',')
}

/// Spark writes a quote within quotes as `\"`. A backslash at the end of a quoted field looks alike, but there the field ends.
fn escape(head: &[u8], delimiter: u8) -> Option<u8> {
    let ends = |byte: &u8| *byte == delimiter || matches!(byte, b'\r' | b'\n' | b'"');
    let escaped = head.windows(3).any(|at| at[0] == b'\\' && at[1] == b'"' && !ends(&at[2]));
    escaped.then_some(b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> (String, Dialect) {
        let known = |name: &str| matches!(name, "item_id" | "title");
        let (mut source, dialect) = decoded(Box::new(Cursor::new(bytes.to_vec())), &known).unwrap();
        let mut text = String::new();
        source.read_to_string(&mut text).unwrap();
        (text, dialect)
    }

    #[test]
    fn utf16_is_read_with_and_without_its_mark() {
        let text = "item_id;title\na;Zoë 🎸\n";
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let bytes: Vec<u8> = text.encode_utf16().flat_map(order).collect();
            let marked = [order(0xfeff).to_vec(), bytes.clone()].concat();
            assert_eq!(read(&bytes).0, text);
            assert_eq!(read(&marked).0, text);
        }
        let long: String = "🎸é".repeat(10_000);
        let bytes: Vec<u8> =
            [0xfeff].into_iter().chain(long.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&bytes).0, long);
        assert_eq!(read(b"\xef\xbb\xbfitem_id,title\n").0, "item_id,title\n");
    }

    #[test]
    fn the_separator_is_the_one_that_finds_the_columns() {
        for (text, delimiter) in [
            ("item_id,title\n", b','),
            ("item_id;title;sizes (a,b,c,d)\n", b';'),
            ("item_id\ttitle\r\n", b'\t'),
            ("\"item_id\"|\"title\"\n", b'|'),
            ("item_id title other\n", b' '),
            ("the item,the title\n", b','),
            ("item_id", b','),
            ("", b','),
        ] {
            assert_eq!(read(text.as_bytes()).1.delimiter, delimiter, "{text:?}");
        }
        let (text, dialect) = read(b"sep=;\r\nitem_id;title\r\n");
        assert_eq!((text.as_str(), dialect.delimiter, dialect.skipped), ("item_id;title\r\n", b';', 1));
    }

    #[test]
    fn a_backslash_escapes_where_it_must() {
        assert_eq!(read(b"item_id,title\na,\"He said \\\"hi\\\" twice\"\n").1.escape, Some(b'\\'));
        assert_eq!(read(b"item_id,title\na,\"C:\\\",\n").1.escape, None);
    }
}
