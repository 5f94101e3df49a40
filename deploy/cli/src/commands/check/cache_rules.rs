//! `cache-rules`: what the content cache of a node does with a request, what it has, and what the origin answers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use chrono::DateTime;
use edge_cache::cut;
use edge_cache::key::Key;
use edge_cache::rules::freshness::Exchange;
use edge_cache::rules::reuse::{Habits, Judged, Reuse, Terms, asked, judge};
use edge_cache::rules::settle::{Settled, Stored, settle};
use edge_cache::rules::store::answers_get;
use edge_cache::rules::{forward, framing, hops, validate, vary};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use proto::{Code, ErrorReply};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Part, read};

/// The defaults of `cache.offline_s` and `cache.negative_s`.
const HABITS: Habits = Habits { offline: Duration::from_secs(604_800), negative: Duration::from_secs(5) };

pub(super) const PART: Part = Part {
    name: "cache-rules",
    about: "a request, a stored response and the origin's answer → what is sent, stored and served",
    shapes: r#"  input   {"request": {"method": "GET", "target": "/a", "headers": {"cookie": "a=b"}, "body": "…"},
           "stored": {"status": 200, "headers": {"etag": "\"a\""}, "body": "…", "age_s": 5, "for": {"cookie": "a=b"}},
           "response": {"status": 304, "headers": {"etag": "\"a\""}, "body": ""},
           "now": "2027-01-15T08:00:00Z"}
          Only request is needed. stored: what is stored of the same URL, age_s seconds ago, for a request with the
          fields "for"; none: nothing. response: what the origin answers if it is asked; none: it cannot be reached.
          headers: an object, with a text or a list of texts for each name, or a list of pairs.
  output  {"sent": {"method", "headers"} or null, "stored": {"status", "headers", "body"} or null, "served":
           {"status", "headers", "body"}, "from": word, "shared": whether others who wait get it too, "why": text or null}
          sent: what the origin gets, null if it is not asked. stored: what is stored of the URL afterwards. served: what
          the caller gets; 503 without a body where nobody can answer. from: stored, origin, or nobody.
          why: why a response is not stored, or what stands in for the origin. Where a 304 is of another response than the
          stored one, it is "asked again": sent is the second question, which has no condition, and served is null.
"#,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    request: Asked,
    #[serde(default)]
    stored: Option<Kept>,
    #[serde(default)]
    response: Option<Response>,
    #[serde(default)]
    now: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    headers: Fields,
    #[serde(default)]
    body: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    #[serde(flatten)]
    response: Response,
    #[serde(default)]
    age_s: u32,
    #[serde(default, rename = "for")]
    made_for: Fields,
}

#[derive(Clone, Deserialize)]
struct Response {
    status: u16,
    #[serde(default)]
    headers: Fields,
    #[serde(default)]
    body: String,
}

/// Fields as a test writes them.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Fields {
    Named(BTreeMap<String, Lines>),
    Pairs(Vec<(String, String)>),
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Lines {
    One(String),
    Many(Vec<String>),
}

impl Default for Fields {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

impl Fields {
    fn header(&self) -> Result<HeaderMap, ErrorReply> {
        let pairs: Vec<(&String, &String)> = match self {
            Self::Pairs(pairs) => pairs.iter().map(|(name, value)| (name, value)).collect(),
            Self::Named(named) => named
                .iter()
                .flat_map(|(name, lines)| match lines {
                    Lines::One(line) => vec![(name, line)],
                    Lines::Many(lines) => lines.iter().map(|line| (name, line)).collect(),
                })
                .collect(),
        };
        let mut header = HeaderMap::new();
        for (name, value) in pairs {
            let field = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
            let (name, value) =
                field.ok_or_else(|| invalid(format!("{name:?}: {value:?} is no field of HTTP")))?;
            header.append(name, value);
        }
        Ok(header)
    }
}

fn invalid(message: String) -> ErrorReply {
    ErrorReply::new(Code::Invalid, message)
}

/// A response, read.
#[derive(Debug, Clone)]
struct Message {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Response {
    fn read(self) -> Result<Message, ErrorReply> {
        let status = StatusCode::from_u16(self.status);
        let status = status.map_err(|_| invalid(format!("{} is no status of HTTP", self.status)))?;
        Ok(Message { status, headers: self.headers.header()?, body: self.body })
    }
}

#[derive(Serialize)]
struct Output {
    sent: Option<Sent>,
    stored: Option<Shown>,
    served: Option<Shown>,
    from: &'static str,
    shared: bool,
    why: Option<String>,
}

#[derive(Serialize)]
struct Sent {
    method: String,
    headers: BTreeMap<String, Value>,
}

#[derive(Serialize)]
struct Shown {
    status: u16,
    headers: BTreeMap<String, Value>,
    body: String,
}

impl From<&Message> for Shown {
    fn from(message: &Message) -> Self {
        let body = message.body.clone();
        Self { status: message.status.as_u16(), headers: shown(&message.headers), body }
    }
}

/// A text for each name, or a list of texts.
fn shown(headers: &HeaderMap) -> BTreeMap<String, Value> {
    let lines = |name: &HeaderName| {
        let lines: Vec<Value> = headers
            .get_all(name)
            .iter()
            .map(|line| String::from_utf8_lossy(line.as_bytes()).into())
            .collect();
        if let [line] = lines.as_slice() { line.clone() } else { lines.into() }
    };
    headers.keys().map(|name| (name.as_str().to_owned(), lines(name))).collect()
}

/// What is stored, in view of the request.
struct Found {
    message: Message,
    selecting: vary::Selecting,
    judged: Judged,
}

/// The request as the cache sees it.
struct Case {
    key: Key,
    method: Method,
    headers: HeaderMap,
    with_body: bool,
}

fn run(input: &RawValue) -> Result<Value, ErrorReply> {
    let input: Input = read(input)?;
    let method = input.request.method.as_deref().unwrap_or("GET");
    let method =
        Method::from_bytes(method.as_bytes()).map_err(|_| invalid(format!("{method:?} is no method")))?;
    let now = now(input.now.as_deref())?;
    let mut headers = input.request.headers.header()?;
    forward::pass_on(&mut headers, None);
    let target = input.request.target.as_deref().unwrap_or("/");
    let key = Key::new(&"https://origin.example".into(), target);
    let key =
        key.ok_or_else(|| invalid(format!("{target:?} is no path, or could lead out of its origin's")))?;
    let case = Case { key, method, headers, with_body: !input.request.body.is_empty() };
    let kept = match input.stored {
        Some(kept) => Some((kept.age_s, kept.made_for.header()?, kept.response.read()?)),
        None => None,
    };
    let response = input.response.map(Response::read).transpose()?;
    let output = case.decide(kept, response, now);
    serde_json::to_value(output).map_err(|error| ErrorReply::new(Code::Internal, error.to_string()))
}

fn now(text: Option<&str>) -> Result<SystemTime, ErrorReply> {
    let text = text.unwrap_or("2027-01-15T08:00:00Z");
    let moment = DateTime::parse_from_rfc3339(text);
    moment
        .map(SystemTime::from)
        .map_err(|error| invalid(format!("now is {text:?}, no moment of RFC 3339: {error}")))
}

impl Case {
    fn decide(
        &self,
        kept: Option<(u32, HeaderMap, Message)>,
        response: Option<Message>,
        now: SystemTime,
    ) -> Output {
        let present = kept.as_ref().map(|(.., message)| message.clone());
        let here =
            matches!(self.method, Method::GET | Method::HEAD) && !validate::is_for_origin(&self.headers);
        let found = kept.filter(|_| here).and_then(|kept| self.find(kept, now));
        if let Some(found) = &found
            && found.judged.reuse != Reuse::Revalidate
        {
            let sent = (found.judged.reuse == Reuse::WhileRevalidating).then(|| self.question(Some(found)));
            return self.hit(found, sent, present.as_ref(), None);
        }
        if here && asked(&self.headers).only_if_cached {
            return nobody(None, present.as_ref(), "only-if-cached");
        }
        let (fetched, found) = (here && (self.method == Method::GET || found.is_some()), found.as_ref());
        let sent = if fetched { self.question(found) } else { self.passed_on() };
        let Some(response) = response.and_then(|response| received(&sent.0, response)) else {
            return match found {
                Some(found) if found.judged.if_gone => {
                    self.hit(found, Some(sent), present.as_ref(), Some("offline"))
                }
                _ => nobody(Some(sent), present.as_ref(), "the origin cannot be reached"),
            };
        };
        if fetched { self.settle(found, sent, response, present) } else { self.pass(sent, response, present) }
    }

    fn find(&self, (age_s, made_for, message): (u32, HeaderMap, Message), now: SystemTime) -> Option<Found> {
        let mut for_request = made_for;
        forward::pass_on(&mut for_request, None);
        let selecting = vary::selecting(&for_request, &message.headers);
        let fits = vary::fits(&self.headers, &selecting)
            || vary::fits_by_language(&self.headers, &selecting, &message.headers);
        let came = now.checked_sub(Duration::from_secs(age_s.into())).unwrap_or(SystemTime::UNIX_EPOCH);
        let terms = Terms::of(message.status, &message.headers, Exchange { asked: came, came });
        let judged = judge(&self.headers, &terms, now, HABITS);
        fits.then_some(Found { message, selecting, judged })
    }

    /// What goes to the origin without a body.
    fn asked_for_all(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        forward::without_body(&mut headers);
        headers
    }

    /// What the origin is asked for all who may wait.
    fn question(&self, found: Option<&Found>) -> (Method, HeaderMap) {
        let mut headers = self.asked_for_all();
        match found {
            Some(found) => drop(validate::ask_if_changed(&mut headers, &found.message.headers)),
            None => validate::ask_for_all(&mut headers),
        }
        (Method::GET, headers)
    }

    fn passed_on(&self) -> (Method, HeaderMap) {
        let with_body = self.with_body && !matches!(self.method, Method::GET | Method::HEAD);
        (self.method.clone(), if with_body { self.headers.clone() } else { self.asked_for_all() })
    }

    fn hit(
        &self,
        found: &Found,
        sent: Option<(Method, HeaderMap)>,
        present: Option<&Message>,
        why: Option<&str>,
    ) -> Output {
        let mut message = found.message.clone();
        message.headers.insert(header::AGE, HeaderValue::from(found.judged.age.as_secs()));
        let why = why.map(str::to_owned);
        Output { why, ..self.output(sent, present, message, "stored", false) }
    }

    /// What the caller gets of a response.
    fn output(
        &self,
        sent: Option<(Method, HeaderMap)>,
        stored: Option<&Message>,
        mut served: Message,
        from: &'static str,
        shared: bool,
    ) -> Output {
        let len = served.body.len();
        let cut = cut(&self.method, &self.headers, served.status, &mut served.headers, Some(len as u64));
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(len);
        let bytes = cut.range.map(|range| &served.body.as_bytes()[place(range.start)..place(range.end)]);
        served.body = String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        served.status = cut.status;
        let sent =
            sent.map(|(method, headers)| Sent { method: method.to_string(), headers: shown(&headers) });
        Output {
            sent,
            stored: stored.map(Shown::from),
            served: Some(Shown::from(&served)),
            from,
            shared,
            why: None,
        }
    }

    fn settle(
        &self,
        found: Option<&Found>,
        sent: (Method, HeaderMap),
        response: Message,
        present: Option<Message>,
    ) -> Output {
        let stand_in = found.filter(|found| found.judged.if_error);
        if let (500 | 502 | 503 | 504, Some(found)) = (response.status.as_u16(), stand_in) {
            return self.hit(found, Some(sent), present.as_ref(), Some("stale-if-error"));
        }
        let request = self.asked_for_all();
        let about = found.map(|found| Stored {
            status: found.message.status,
            headers: &found.message.headers,
            selecting: &found.selecting,
        });
        match settle(&request, about, response.status, &response.headers) {
            Settled::New { stored: Ok(()) } => {
                let kept = with_length(response.clone());
                self.output(Some(sent), Some(&kept), response, "origin", true)
            }
            Settled::New { stored: Err(refused) } => {
                let why = Some(format!("not stored: {refused:?}"));
                Output { why, ..self.output(Some(sent), present.as_ref(), response, "origin", false) }
            }
            Settled::Confirmed { headers, stored, forget } => {
                let Some(found) = found else {
                    return nobody(Some(sent), present.as_ref(), "nothing is stored");
                };
                let confirmed = Message { headers, ..found.message.clone() };
                let why = stored.err().map(|refused| format!("not stored: {refused:?}"));
                let kept = match stored {
                    Ok(()) => Some(confirmed.clone()),
                    Err(_) => present.filter(|_| !forget),
                };
                Output { why, ..self.output(Some(sent), kept.as_ref(), confirmed, "stored", stored.is_ok()) }
            }
            Settled::OfAnother => {
                let again = nobody(Some(self.question(None)), present.as_ref(), "asked again");
                Output { served: None, ..again }
            }
        }
    }

    fn pass(&self, sent: (Method, HeaderMap), response: Message, present: Option<Message>) -> Output {
        let changes =
            !self.method.is_safe() && (response.status.is_success() || response.status.is_redirection());
        let is_here = |location: &str| self.key.sibling(location).as_ref() == Some(&self.key);
        let answers = answers_get(&self.method, &sent.1, response.status, &response.headers, is_here);
        let kept = match (answers, changes) {
            (true, _) => Some(with_length(response.clone())),
            (false, true) => None,
            (false, false) => present,
        };
        let mut output = self.output(Some(sent), kept.as_ref(), response.clone(), "origin", false);
        // What is passed on is passed on as it is.
        output.served = Some(Shown::from(&response));
        output
    }
}

/// A response as it comes in: framed, and without what was for one connection. `None`: it cannot be read.
fn received(method: &Method, mut response: Message) -> Option<Message> {
    let coded = response.headers.contains_key(header::TRANSFER_ENCODING);
    let len = (!coded).then_some(response.body.len() as u64);
    framing::settle(method, response.status, &mut response.headers, len).ok()?;
    hops::remove(&mut response.headers);
    Some(response)
}

/// What is stored knows its length.
fn with_length(mut message: Message) -> Message {
    message.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(message.body.len()));
    message
}

fn nobody(sent: Option<(Method, HeaderMap)>, present: Option<&Message>, why: &str) -> Output {
    let sent = sent.map(|(method, headers)| Sent { method: method.to_string(), headers: shown(&headers) });
    let served = Shown { status: 503, headers: BTreeMap::new(), body: String::new() };
    Output {
        sent,
        stored: present.map(Shown::from),
        served: Some(served),
        from: "nobody",
        shared: false,
        why: Some(why.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn output(input: &Value) -> Value {
        run(&serde_json::value::to_raw_value(input).unwrap()).unwrap()
    }

    #[test]
    fn a_fresh_response_is_served_and_nobody_is_asked() {
        let stored =
            json!({"status": 200, "headers": {"cache-control": "max-age=60"}, "body": "abc", "age_s": 10});
        let told = output(&json!({"request": {"headers": {"range": "bytes=1-1"}}, "stored": stored}));
        assert_eq!((&told["sent"], &told["from"]), (&Value::Null, &json!("stored")));
        assert_eq!((&told["served"]["status"], &told["served"]["body"]), (&json!(206), &json!("b")));
        assert_eq!(told["served"]["headers"]["age"], "10");
    }

    #[test]
    fn a_304_with_a_cookie_is_for_one_visitor() {
        let told = output(&json!({
            "request": {"headers": [["if-match", "x"], ["X_Forwarded_Host", "evil"]], "method": "GET"},
            "stored": {"status": 200, "headers": {"etag": "\"a\"", "cache-control": "max-age=1"}, "body": "a", "age_s": 9},
            "response": {"status": 304, "headers": {"etag": "\"a\"", "set-cookie": ["session=1"]}},
        }));
        assert_eq!(told["sent"]["headers"]["if-match"], "x", "its own conditions go with it alone: {told}");
        assert!(told["sent"]["headers"].get("x_forwarded_host").is_none());
        let told = output(&json!({
            "request": {"headers": {"content-length": "5"}, "body": "hello"},
            "stored": {"status": 200, "headers": {"etag": "\"a\"", "cache-control": "max-age=1"}, "body": "a", "age_s": 9},
            "response": {"status": 304, "headers": {"etag": "\"a\"", "set-cookie": "session=1"}},
        }));
        assert!(told["sent"]["headers"].get("content-length").is_none());
        assert_eq!((&told["stored"], &told["shared"]), (&Value::Null, &json!(false)));
        assert_eq!((&told["served"]["body"], &told["why"]), (&json!("a"), &json!("not stored: SetCookie")));
    }

    #[test]
    fn a_response_is_as_long_as_it_is() {
        let both =
            json!({"content-length": "5", "transfer-encoding": "chunked", "cache-control": "max-age=60"});
        let response = json!({"status": 200, "headers": both, "body": "0123456789abcdef"});
        let told = output(&json!({"request": {}, "response": response}));
        assert_eq!(told["stored"]["headers"]["content-length"], "16");
        assert!(told["served"]["headers"].get("content-length").is_none() && told["shared"] == true);
        let posted = json!({"cache-control": "max-age=60", "content-location": "/a"});
        let posted = json!({"status": 200, "headers": posted, "body": "new"});
        for (target, kept) in [("/a", json!("new")), ("/b", Value::Null)] {
            let told = output(
                &json!({"request": {"method": "POST", "target": target, "body": "x"}, "response": posted}),
            );
            assert_eq!(told["stored"]["body"], kept, "{target}");
        }
        let gone = output(&json!({"request": {"method": "HEAD"}}));
        assert_eq!((&gone["served"]["status"], &gone["sent"]["method"]), (&json!(503), &json!("HEAD")));
    }
}
