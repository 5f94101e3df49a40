//! The length of a response's body, as it is said from here on (RFC 9112, 6.3; RFC 9110, 8.6).

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::directives::members;

/// A response whose body is in a coding that is not known here: its bytes would be taken for the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownCoding;

/// Lets `Content-Length` be what the body's framing says, `len`, whatever the origin wrote: beside `Transfer-Encoding` it means nothing
/// (RFC 9112, 6.3, item 3). `None`: the length shows only at the body's end. Comes before `hops::remove`.
///
/// # Errors
/// Where the response's content is compressed for the way here, which is not undone (RFC 9112, 6.1 and 7.2).
pub fn settle(
    asked: &Method,
    status: StatusCode,
    headers: &mut HeaderMap,
    len: Option<u64>,
) -> Result<(), UnknownCoding> {
    let coded = headers.contains_key(TRANSFER_ENCODING);
    if coded && changes_content(headers) {
        return Err(UnknownCoding);
    }
    let without_body = *asked == Method::HEAD || status == StatusCode::NOT_MODIFIED;
    let said = match (without_body, len) {
        // What the response to GET would say, where that can be known.
        (true, _) if !coded => one_length(headers),
        (true, _) => None,
        (false, _) if status == StatusCode::NO_CONTENT || status.is_informational() => None,
        (false, len) => len,
    };
    headers.remove(CONTENT_LENGTH);
    headers.extend(said.map(|len| (CONTENT_LENGTH, HeaderValue::from(len))));
    Ok(())
}

/// Whether a message has more than `chunked`, once, of the transfer codings that are registered (RFC 9112, 12.3). What is no coding changes
/// nothing; a line that cannot be read may be anything.
pub fn changes_content(headers: &HeaderMap) -> bool {
    if headers.get_all(TRANSFER_ENCODING).iter().any(|line| line.to_str().is_err()) {
        return true;
    }
    let lines = headers.get_all(TRANSFER_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let names = lines.flat_map(members).map(|coding| coding.split(';').next().unwrap_or_default().trim());
    let mut chunked = 0;
    for name in names.map(str::to_ascii_lowercase) {
        match name.as_str() {
            "chunked" => chunked += 1,
            "gzip" | "x-gzip" | "deflate" | "compress" | "x-compress" => return true,
            _ => {}
        }
    }
    chunked > 1
}

/// The length that a header says, if it says one and no other.
fn one_length(headers: &HeaderMap) -> Option<u64> {
    let lines = headers.get_all(CONTENT_LENGTH).iter().map(|line| line.to_str().unwrap_or_default());
    let mut lengths = lines.flat_map(|line| line.split(',')).map(|text| digits(text.trim()));
    let first = lengths.next()??;
    lengths.all(|other| other == Some(first)).then_some(first)
}

/// RFC 9110, 8.6: digits only.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(
        method: &Method,
        status: u16,
        fields: &[(&str, &str)],
        len: Option<u64>,
    ) -> Result<Vec<String>, UnknownCoding> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        settle(method, StatusCode::from_u16(status).unwrap(), &mut headers, len)?;
        Ok(headers.get_all(CONTENT_LENGTH).iter().map(|value| value.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn the_length_is_the_bodys() {
        let both = [("content-length", "5"), ("transfer-encoding", "chunked")];
        let none: [String; 0] = [];
        assert_eq!(settled(&Method::GET, 200, &both, None).unwrap(), none);
        assert_eq!(settled(&Method::GET, 200, &[("content-length", "5")], Some(5)).unwrap(), ["5"]);
        assert_eq!(settled(&Method::GET, 200, &[("content-length", "5, 5")], Some(5)).unwrap(), ["5"]);
        assert_eq!(settled(&Method::GET, 200, &[], Some(0)).unwrap(), ["0"]);
        assert_eq!(settled(&Method::GET, 204, &[("content-length", "5")], Some(0)).unwrap(), none);
        assert_eq!(settled(&Method::POST, 200, &both, None).unwrap(), none);
    }

    #[test]
    fn without_a_body_it_is_that_of_get() {
        for (method, status) in [(Method::HEAD, 200), (Method::GET, 304)] {
            let of = |fields: &[(&str, &str)]| settled(&method, status, fields, Some(0)).unwrap();
            assert_eq!(of(&[("content-length", "5")]), ["5"]);
            assert!(of(&[("content-length", "5"), ("transfer-encoding", "chunked")]).is_empty());
            assert!(of(&[("content-length", "5"), ("content-length", "6")]).is_empty());
            assert!(of(&[("content-length", "+5")]).is_empty() && of(&[]).is_empty());
        }
    }

    #[test]
    fn a_coding_that_is_not_known_is_an_error() {
        for coding in ["gzip, chunked", "GZIP", "deflate;q=1, chunked", "chunked, chunked"] {
            let fields = [("transfer-encoding", coding)];
            assert_eq!(settled(&Method::GET, 200, &fields, None), Err(UnknownCoding), "{coding}");
        }
        let mut unreadable = HeaderMap::new();
        unreadable.insert(TRANSFER_ENCODING, HeaderValue::from_bytes(b"gzip, \xff").unwrap());
        assert_eq!(settle(&Method::GET, StatusCode::OK, &mut unreadable, None), Err(UnknownCoding));
        let twice = [("transfer-encoding", "chunked"), ("transfer-encoding", "gzip")];
        assert_eq!(settled(&Method::GET, 200, &twice, None), Err(UnknownCoding));
        for coding in ["Chunked ", "identity", "nobody-knows"] {
            assert_eq!(
                settled(&Method::GET, 200, &[("transfer-encoding", coding)], None),
                Ok(vec![]),
                "{coding}"
            );
        }
    }
}
