//! Which responses may be stored (RFC 9111, 3).

use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LOCATION, SET_COOKIE};
use http::{HeaderMap, Method, StatusCode};

use super::directives::Directives;
use super::freshness::{directives, explicit_lifetime, may_be_guessed};
use super::vary;

/// Why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Only answers to GET are.
    Method,
    /// A part of a response, or not a final one.
    Status,
    /// `no-store` of the request.
    RequestNoStore,
    /// `no-store` of the response.
    NoStore,
    /// `private`.
    Private,
    /// The request named who asks, and the response does not say that it is for others, too.
    Authorization,
    /// The response gives a cookie to one visitor, and does not say that it is for others, too.
    SetCookie,
    /// `Vary: *`: it fits no other request.
    VaryAll,
    /// Nothing says, or lets guess, how long it is fresh, nor can it be validated.
    NoLifetime,
    /// It has more tags, or longer ones, than are kept: it could not be purged by all of them.
    Tags,
}

/// Whether the answer to POST is what GET would get from now on: it says for how long, and that it is of the same resource (RFC 9110, 9.3.3).
/// `is_here`: whether a `Content-Location` names that.
pub fn answers_get(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
    is_here: impl Fn(&str) -> bool,
) -> bool {
    let located = response.get(CONTENT_LOCATION).and_then(|value| value.to_str().ok()).is_some_and(is_here);
    let said = directives(response);
    let lasts = explicit_lifetime(response, &said).is_some_and(|lifetime| !lifetime.is_zero());
    *method == Method::POST
        && status == StatusCode::OK
        && located
        && lasts
        && may_store(&Method::GET, request, status, response).is_ok()
}

/// Whether the response to a request may be stored.
///
/// # Errors
/// Why not.
pub fn may_store(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
) -> Result<(), Refused> {
    let (asked, said) = (Directives::of(request, &CACHE_CONTROL), directives(response));
    let explicit = explicit_lifetime(response, &said).is_some()
        || (response.contains_key(http::header::EXPIRES) && !said.targeted);
    let for_others = said.public || said.s_maxage.is_some();
    let understood = status == StatusCode::OK || may_be_guessed(status) || !said.must_understand;
    let rules = [
        (method == Method::GET, Refused::Method),
        (status.as_u16() >= 200 && !matches!(status.as_u16(), 206 | 304) && understood, Refused::Status),
        (!asked.no_store, Refused::RequestNoStore),
        (!said.no_store || (said.must_understand && understood), Refused::NoStore),
        (!said.private, Refused::Private),
        (!request.contains_key(AUTHORIZATION) || for_others || said.must_revalidate, Refused::Authorization),
        (!response.contains_key(SET_COOKIE) || for_others, Refused::SetCookie),
        (!vary::fits_nothing(response), Refused::VaryAll),
        (explicit || said.public || may_be_guessed(status), Refused::NoLifetime),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, refused)| Err(refused))
}
