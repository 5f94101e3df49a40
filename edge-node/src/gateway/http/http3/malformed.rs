//! Which requests are malformed (RFC 9114, 4.1.2, 4.2 and 4.3): h3 0.0.8 takes more than it should. Pure.

use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use axum::http::{HeaderMap, HeaderName, Method, Request};

use h3::ext::Protocol;

/// Fields of HTTP/1.1's connections (RFC 9114, 4.2).
const OF_CONNECTIONS: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// Pseudo-header fields of requests, in text and in QPACK's Huffman code (RFC 9204, 4.1.2), as they are spelled where they do not come from
/// its static table.
const PSEUDO: [(Pseudo, &[u8], &[u8]); 5] = [
    (Pseudo::Method, b":method", &[0xb9, 0x49, 0x53, 0x39, 0xe4]),
    (Pseudo::Scheme, b":scheme", &[0xb8, 0x82, 0x4e, 0x5a, 0x4b]),
    (Pseudo::Authority, b":authority", &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f]),
    (Pseudo::Path, b":path", &[0xb9, 0x58, 0xd3, 0x3f]),
    (Pseudo::Protocol, b":protocol", &[0xb9, 0x5d, 0x87, 0x49, 0xc8, 0x7a, 0x3f]),
];
/// The code of a colon, of seven bits (RFC 7541, appendix B).
const COLON: u8 = 0x5c;
/// Values of QPACK's static table that are empty: of `:authority` (RFC 9204, appendix A).
const EMPTY_AUTHORITY: u64 = 0;

/// Why a request is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error(
        "a pseudo-header field comes twice, after other fields, empty, or is of no request (RFC 9114, 4.3)"
    )]
    PseudoHeader,
    #[error("CONNECT has other pseudo-header fields than it may have (RFC 9114, 4.4; RFC 9220, 3)")]
    Connect,
    #[error("a field is of HTTP/1.1's connections (RFC 9114, 4.2)")]
    ConnectionField,
    #[error("`te` says more than `trailers` (RFC 9114, 4.2)")]
    Te,
    #[error("there is more than one host (RFC 9114, 4.3.1)")]
    Host,
    #[error("`content-length` is no length, or not the content's (RFC 9114, 4.1.2)")]
    ContentLength,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pseudo {
    Method = 1,
    Scheme = 2,
    Authority = 4,
    Path = 8,
    Protocol = 16,
}

/// What a line of a field section is.
enum Line {
    Pseudo(Pseudo, bool),
    /// `:status`, or one that nobody knows.
    Unknown,
    Field,
}

/// Goes over a field section as it came (RFC 9204, 4.5): of pseudo-header fields h3 keeps the last one, wherever it stands. What cannot be
/// read is left to h3 to refuse.
///
/// # Errors
/// Where pseudo-header fields are not as they must be.
pub fn section(bytes: &[u8]) -> Result<(), Malformed> {
    let mut bytes = bytes;
    if number(&mut bytes, 8).is_none() || number(&mut bytes, 7).is_none() {
        return Ok(());
    }
    let (mut seen, mut fields) = (0_u8, false);
    while !bytes.is_empty() {
        match line(&mut bytes) {
            None => return Ok(()),
            Some(Line::Field) => fields = true,
            Some(Line::Pseudo(pseudo, empty)) => {
                let bit = pseudo as u8;
                if fields || empty || seen & bit != 0 {
                    return Err(Malformed::PseudoHeader);
                }
                seen |= bit;
            }
            Some(Line::Unknown) => return Err(Malformed::PseudoHeader),
        }
    }
    Ok(())
}

/// `None`: it cannot be read, or rests on the dynamic table, which nobody may use here.
fn line(bytes: &mut &[u8]) -> Option<Line> {
    let first = *bytes.first()?;
    if first & 0x80 != 0 {
        let index = number(bytes, 6)?;
        return (first & 0x40 != 0).then(|| of_table(index, index == EMPTY_AUTHORITY));
    }
    if first & 0x40 != 0 {
        let index = number(bytes, 4)?;
        let value = text(bytes, 7)?;
        return (first & 0x10 != 0).then(|| of_table(index, value.is_empty()));
    }
    if first & 0x20 != 0 {
        let huffman = first & 0x08 != 0;
        let name = text(bytes, 3)?;
        let value = text(bytes, 7)?;
        return Some(named(name, huffman, value.is_empty()));
    }
    None
}

/// By its place in QPACK's static table (RFC 9204, appendix A).
fn of_table(index: u64, empty: bool) -> Line {
    match index {
        0 => Line::Pseudo(Pseudo::Authority, empty),
        1 => Line::Pseudo(Pseudo::Path, empty),
        15..=21 => Line::Pseudo(Pseudo::Method, empty),
        22 | 23 => Line::Pseudo(Pseudo::Scheme, empty),
        24..=28 | 63..=71 => Line::Unknown,
        _ => Line::Field,
    }
}

fn named(name: &[u8], huffman: bool, empty: bool) -> Line {
    let spelled = |(_, plain, coded): &&(Pseudo, &[u8], &[u8])| name == if huffman { *coded } else { *plain };
    if let Some((pseudo, ..)) = PSEUDO.iter().find(spelled) {
        return Line::Pseudo(*pseudo, empty);
    }
    let colon = name.first().is_some_and(|first| if huffman { first >> 1 == COLON } else { *first == b':' });
    if colon { Line::Unknown } else { Line::Field }
}

/// A number in the last `bits` of a byte, and in more bytes (RFC 7541, 5.1).
fn number(bytes: &mut &[u8], bits: u32) -> Option<u64> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    let most = (1_u64 << bits) - 1;
    let mut value = u64::from(*first) & most;
    if value < most {
        return Some(value);
    }
    for shift in (0..63).step_by(7) {
        let (next, rest) = bytes.split_first()?;
        *bytes = rest;
        value = value.checked_add(u64::from(next & 0x7f).checked_shl(shift)?)?;
        if next & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A string, whose length has so many bits in its first byte.
fn text<'b>(bytes: &mut &'b [u8], bits: u32) -> Option<&'b [u8]> {
    let len = usize::try_from(number(bytes, bits)?).ok()?;
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(text)
}

/// Checks a request's head. How long its content must be, where it says so.
///
/// # Errors
/// Where it is malformed.
pub fn head(request: &Request<()>) -> Result<Option<u64>, Malformed> {
    let (headers, uri) = (request.headers(), request.uri());
    if OF_CONNECTIONS.iter().any(|name| headers.contains_key(name)) {
        return Err(Malformed::ConnectionField);
    }
    if headers.get_all(TE).iter().any(|te| !te.as_bytes().trim_ascii().eq_ignore_ascii_case(b"trailers")) {
        return Err(Malformed::Te);
    }
    let userinfo = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if userinfo || headers.get_all(HOST).iter().count() > 1 {
        return Err(Malformed::Host);
    }
    let protocol = request.extensions().get::<Protocol>().is_some();
    let (connect, parts) = (*request.method() == Method::CONNECT, uri.scheme().is_some());
    // A tunnel has neither scheme nor path; a session of another protocol has both.
    if connect && protocol != parts || protocol && !connect {
        return Err(Malformed::Connect);
    }
    let path = uri.path();
    let whole = path.starts_with('/') || (path == "*" && *request.method() == Method::OPTIONS);
    if !(connect || parts && whole) {
        return Err(Malformed::PseudoHeader);
    }
    content_length(headers)
}

/// Lines that say the same say it once (RFC 9110, 8.6).
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut said = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        let text = line.to_str().map_err(|_| Malformed::ContentLength)?;
        for len in text.split(',').map(str::trim) {
            let digits = len.bytes().all(|byte| byte.is_ascii_digit());
            let len = len.parse::<u64>().ok().filter(|_| digits).ok_or(Malformed::ContentLength)?;
            if said.is_some_and(|said| said != len) {
                return Err(Malformed::ContentLength);
            }
            said = Some(len);
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field section of lines in text, each name spelled out (RFC 9204, 4.5.6).
    fn spelled(lines: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = vec![0, 0];
        for (name, value) in lines {
            if name.len() < 7 {
                bytes.push(0x20 | name.len() as u8);
            } else {
                bytes.extend([0x27, (name.len() - 7) as u8]);
            }
            bytes.extend(name.as_bytes());
            bytes.push(value.len() as u8);
            bytes.extend(value.as_bytes());
        }
        bytes
    }

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];

    #[test]
    fn pseudo_header_fields_come_first_and_once() {
        assert_eq!(section(&spelled(&[&GET[..], &[("x", "1"), ("y", "")]].concat())), Ok(()));
        for wrong in [
            [&GET[..], &[(":path", "/b")]].concat(),
            [&GET[..3], &[("x", "1")], &GET[3..]].concat(),
            [&GET[..], &[(":status", "200")]].concat(),
            [&GET[..], &[(":nobody", "1")]].concat(),
            [&GET[..3], &[(":path", "")]].concat(),
        ] {
            assert_eq!(section(&spelled(&wrong)), Err(Malformed::PseudoHeader), "{wrong:?}");
        }
    }

    #[test]
    fn a_name_is_known_however_it_is_coded() {
        // `:method: GET`, `:scheme: https` and `:path: /` of the static table; `:authority` with a value.
        let table = [0, 0, 0xc0 | 17, 0xc0 | 23, 0xc0 | 1, 0x50, 1, b'a'];
        assert_eq!(section(&table), Ok(()));
        let again = |more: &[u8]| section(&[&table[..], more].concat());
        assert_eq!(again(&[0xc0 | 1]), Err(Malformed::PseudoHeader), "of the table");
        assert_eq!(again(&[0x51, 1, b'/']), Err(Malformed::PseudoHeader), "with a value of its own");
        for (_, plain, coded) in PSEUDO.iter().take(4) {
            let plain = spelled(&[(str::from_utf8(plain).unwrap(), "x")]);
            assert_eq!(again(&plain[2..]), Err(Malformed::PseudoHeader));
            let len = coded.len() as u8;
            let first = if len < 7 { vec![0x28 | len] } else { vec![0x2f, len - 7] };
            assert_eq!(again(&[&first[..], coded, &[1, b'x']].concat()), Err(Malformed::PseudoHeader));
        }
        assert_eq!(again(&[0xff, 1]), Err(Malformed::PseudoHeader), "`:status`");
        // `:status` in Huffman's code.
        assert_eq!(again(&[0x2d, 0xb8, 0x84, 0x8d, 0x36, 0xa3, 0]), Err(Malformed::PseudoHeader));
        assert_eq!(section(&[0, 0, 0xc0]), Err(Malformed::PseudoHeader), "an empty authority");
        for unreadable in [&[][..], &[0], &[0, 0, 0x80], &[0, 0, 0x10], &[0, 0, 0x27], &[0, 0, 0x51, 0xff]] {
            assert_eq!(section(unreadable), Ok(()), "h3 refuses it: {unreadable:?}");
        }
    }

    fn checked(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<Option<u64>, Malformed> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        head(&request.body(()).unwrap())
    }

    #[test]
    fn fields_of_connections_are_malformed() {
        let of = |name: &str, value: &str| checked("GET", "https://a/b", &[(name, value)]);
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            assert_eq!(of(name, "x"), Err(Malformed::ConnectionField), "{name}");
        }
        assert_eq!((of("te", "trailers"), of("te", "gzip")), (Ok(None), Err(Malformed::Te)));
        assert_eq!(checked("GET", "https://a/", &[("host", "a"), ("host", "b")]), Err(Malformed::Host));
        assert_eq!(checked("GET", "https://me@a/", &[]), Err(Malformed::Host));
        assert_eq!(checked("CONNECT", "https://a/b", &[]), Err(Malformed::Connect));
        assert_eq!(
            (checked("CONNECT", "a:1", &[]), checked("OPTIONS", "https://a/", &[])),
            (Ok(None), Ok(None))
        );
    }

    #[test]
    fn a_length_is_one_number() {
        let of = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("content-length", *line)).collect();
            checked("POST", "https://a/b", &lines)
        };
        assert_eq!((of(&[]), of(&["5"]), of(&["5, 5", "5"])), (Ok(None), Ok(Some(5)), Ok(Some(5))));
        for wrong in [&["5", "6"][..], &["-5"], &["+5"], &["5x"], &[""], &["99999999999999999999"]] {
            assert_eq!(of(wrong), Err(Malformed::ContentLength), "{wrong:?}");
        }
    }
}
