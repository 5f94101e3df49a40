//! What becomes of an origin's answer: whether it is about what is stored (RFC 9111, 4.3.3), and whether it may be stored (3). A 304 asks
//! that question of the whole response anew, since it may change the fields that decide it (3.2).

use http::header::AGE;
use http::{HeaderMap, Method, StatusCode};

use super::store::{Refused, may_store};
use super::{validate, vary};
use crate::key;

/// What is stored, and was asked about.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its header.
    pub headers: &'a HeaderMap,
    /// For which requests it was made.
    pub selecting: &'a vary::Selecting,
}

/// What becomes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It is a response of its own.
    New {
        /// Whether it may be stored, or why not.
        stored: Result<(), Refused>,
    },
    /// What is stored still holds, under this header.
    Confirmed {
        /// The stored header, brought up to date.
        headers: HeaderMap,
        /// Whether it may stay stored, or why not.
        stored: Result<(), Refused>,
        /// Whether what is stored now is forgotten: it may not stay, or was made for other requests than it seemed.
        forget: bool,
    },
    /// It is a 304 about another response than the one that is stored: all of it is asked for.
    OfAnother,
}

/// Settles the answer to GET. `request` is what the origin got, but for the conditions of [`validate::ask_if_changed`]; `asked_about` is
/// what those named.
pub fn settle(
    request: &HeaderMap,
    asked_about: Option<Stored<'_>>,
    status: StatusCode,
    response: &HeaderMap,
) -> Settled {
    let Some(stored) = asked_about.filter(|_| status == StatusCode::NOT_MODIFIED) else {
        return Settled::New { stored: kept(request, status, response) };
    };
    if !validate::is_about(response, stored.headers) {
        return Settled::OfAnother;
    }
    let mut headers = stored.headers.clone();
    // A response that says its age says it anew, or is new.
    headers.remove(AGE);
    validate::refresh(&mut headers, response);
    let kept = kept(request, stored.status, &headers);
    let forget = match kept {
        // The stored response was made for somebody else, and may be asked about again by another.
        Err(Refused::Authorization | Refused::RequestNoStore) => false,
        Err(_) => true,
        Ok(()) => selecting(request, &headers, stored.selecting) != *stored.selecting,
    };
    Settled::Confirmed { headers, stored: kept, forget }
}

/// For which requests a confirmed response is. It may have been found by its language, for a request with another list than that it was
/// made for: as long as the same fields decide, it is for the same requests as before.
pub fn selecting(request: &HeaderMap, confirmed: &HeaderMap, stored: &vary::Selecting) -> vary::Selecting {
    let now = vary::selecting(request, confirmed);
    let names =
        |selecting: &vary::Selecting| selecting.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    if names(&now) == names(stored) { stored.clone() } else { now }
}

fn kept(request: &HeaderMap, status: StatusCode, response: &HeaderMap) -> Result<(), Refused> {
    may_store(&Method::GET, request, status, response)?;
    key::tags(response).map(|_| ()).ok_or(Refused::Tags)
}
