//! Who a request is about, and what a client must have seen, as text.

use proto::{Code, DeviceId, ErrorReply, PopId, SessionToken, UserId, VisitorId};

/// One of both; the user, where both are known.
pub(super) fn visitor(user: Option<UserId>, device: Option<DeviceId>) -> Result<VisitorId, ErrorReply> {
    match (user, device) {
        (Some(user), _) => Ok(VisitorId::User(user)),
        (None, Some(device)) => Ok(VisitorId::Device(device)),
        (None, None) => Err(ErrorReply::new(Code::Invalid, "say whom it is about: user_id or device_id")),
    }
}

/// `pop:index`. A client keeps it as it is.
pub(super) fn token_text(token: &SessionToken) -> String {
    format!("{}:{}", token.pop, token.index)
}

/// Reads [`token_text`].
pub(super) fn token(text: &str) -> Result<SessionToken, ErrorReply> {
    let parts =
        text.rsplit_once(':').and_then(|(pop, index)| Some((PopId::new(pop).ok()?, index.parse().ok()?)));
    parts.map(|(pop, index)| SessionToken { pop, index }).ok_or_else(|| {
        ErrorReply::new(Code::Invalid, "session is what an earlier answer said under that name, unchanged")
    })
}
