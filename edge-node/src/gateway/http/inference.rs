//! The Open Inference Protocol, version 2, as KServe and Triton speak it over REST (kserve.github.io, "Open Inference Protocol"), with
//! Triton's binary tensor data, and over gRPC ([`grpc`]). The models of the active bundle are `retrieval` and `ranker`; their versions are the cards'. Keys need
//! the scope `infer`: who may run a model on any numbers can learn what it knows.

pub(super) mod grpc;
pub(super) mod message;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts as Head;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use inference::{Card, EngineKind, ModelError, ModelSpec, RankerStage, RetrievalStage, Session, Tensor};
use proto::{Code, ErrorReply};
use serde::Deserialize;
use serde_json::{Value, json};
use service::admin::Readiness;
use service::http::{Path, Refusal};

use super::Http;
use super::auth::Asker;
use crate::bundles::Serving;
use crate::gateway::Gateway;
use crate::gateway::apps::Scope;
use message::{Answer, Inference};

/// The models.
const NAMES: [&str; 2] = ["retrieval", "ranker"];
/// Largest request, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most rows of a request: about what a recommendation ranks.
pub(super) const ROWS_MAX: usize = 256;
/// Most numbers of an answer.
const OUTPUT_LEN_MAX: usize = 1024 * 1024;

/// What the server says of itself.
const SERVER: (&str, &str, &str) = ("rockpool", env!("CARGO_PKG_VERSION"), "binary_tensor_data");

/// Whether a path is this protocol's.
pub(super) fn is_at(path: &str) -> bool {
    path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An error as this protocol has it: problem+json with the member `error` beside.
pub(super) fn with_error(mut response: Response) -> Response {
    let Some(refusal) = response.extensions_mut().remove::<Refusal>() else { return response };
    if response.body().is_end_stream() {
        // Asked with HEAD.
        return response;
    }
    let (status, reply) = (response.status(), refusal.reply());
    let said = json!({
        "code": reply.code, "status": status.as_u16(), "detail": reply.message, "error": reply.message,
    });
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = said.to_string().into();
    response
}

/// Which model, as the path names it.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    model: String,
    version: Option<String>,
}

/// `GET /v2/health/live`.
pub(super) async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

/// `GET /v2/health/ready`.
pub(super) async fn ready(State(ready): State<Readiness>) -> Response {
    match ready() {
        Ok(()) => Json(json!({"ready": true})).into_response(),
        Err(reason) => Refusal::new(Code::NotReady, reason).into_response(),
    }
}

/// `GET /v2`.
pub(super) async fn server() -> Json<Value> {
    let (name, version, extension) = SERVER;
    Json(json!({"name": name, "version": version, "extensions": [extension]}))
}

/// `GET /v2/models/{model}/ready`.
pub(super) async fn model_ready(
    State(gateway): State<Arc<Gateway>>,
    Path(named): Path<Named>,
) -> Result<Json<Value>, Refusal> {
    let model = Model::find(&gateway, &named)?;
    Ok(Json(json!({"name": model.name, "ready": true})))
}

/// `GET /v2/models/{model}`.
pub(super) async fn model(
    State(gateway): State<Arc<Gateway>>,
    _permitted: Permitted,
    Path(named): Path<Named>,
) -> Result<Json<Value>, Refusal> {
    let model = Model::find(&gateway, &named)?;
    let Parts { card, session } = model.parts()?;
    let spec = session.spec();
    Ok(Json(json!({
        "name": model.name,
        "versions": [card.version],
        "platform": platform(session),
        "inputs": spec.inputs.iter().map(message::described).collect::<Vec<_>>(),
        "outputs": [message::described(&spec.output)],
    })))
}

/// `POST /v2/models/{model}/infer`.
pub(super) async fn infer(
    State(gateway): State<Arc<Gateway>>,
    _permitted: Permitted,
    Path(named): Path<Named>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let model = Model::find(&gateway, &named)?;
    let work = move || model.run(|spec, rows_max| Inference::read(spec, rows_max, &headers, &body));
    Ok(ran(&gateway, work).await?.into_response())
}

/// Waits for a model thread's turn, and its answer.
async fn ran(
    gateway: &Gateway,
    work: impl FnOnce() -> Result<Answer, ErrorReply> + Send + 'static,
) -> Result<Answer, ErrorReply> {
    let deadline = Instant::now() + gateway.deadline(u32::MAX);
    let _admitted = gateway.admit()?;
    let late = |_| ErrorReply::new(Code::DeadlineExceeded, "no model had time for it");
    // Recommendations have the model threads too; and reading so many numbers is nothing for the threads that do IO.
    let turn = Arc::clone(&gateway.inferences).acquire_owned();
    let turn = tokio::time::timeout_at(deadline.into(), turn).await.map_err(late)?;
    let work = move || {
        // Held until it is done, though whoever asked may give up before.
        let _turn = turn;
        work()
    };
    let ran = gateway.workers.run(work).ok_or_else(|| {
        ErrorReply::new(Code::Overloaded, "the queue for the models is full").retry_after_ms(100)
    })?;
    let ran = tokio::time::timeout_at(deadline.into(), ran).await;
    // A thread that gives no answer at all has caught a panic: these numbers are nothing for this model.
    let panicked = |_| ErrorReply::new(Code::Invalid, "the model cannot work with these numbers");
    ran.map_err(late)?.map_err(panicked)?
}

/// Somebody whose key is for this.
pub(super) struct Permitted;

impl FromRequestParts<Http> for Permitted {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Head, http: &Http) -> Result<Self, Refusal> {
        let asker = Asker::from_request_parts(head, http).await?;
        http.gateway.apps.permit(&asker.caller, Scope::Infer)?;
        Ok(Self)
    }
}

/// A model of the bundle that is active.
struct Model {
    serving: Arc<Serving>,
    name: &'static str,
}

/// What of it is asked for here.
struct Parts<'a> {
    card: &'a Card,
    session: &'a Session,
}

impl Model {
    fn find(gateway: &Gateway, named: &Named) -> Result<Self, ErrorReply> {
        let name = NAMES.into_iter().find(|name| *name == named.model);
        let name =
            name.ok_or_else(|| absent(format!("there is no model {:?}; there are {NAMES:?}", named.model)))?;
        let serving = gateway.bundle.load();
        let serving = serving.ok_or_else(|| ErrorReply::new(Code::NotReady, "no bundle is active yet"))?;
        let model = Self { serving, name };
        let active = model.parts()?.card.version.to_string();
        match &named.version {
            Some(asked) if *asked != active => {
                Err(absent(format!("the active version of {name} is {active}, not {asked}")))
            }
            _ => Ok(model),
        }
    }

    fn parts(&self) -> Result<Parts<'_>, ErrorReply> {
        let bundle = self.serving.prepared.bundle();
        let retrieval =
            || bundle.retrieval.as_ref().map(|RetrievalStage { model, .. }| (model.card(), model.session()));
        let ranker =
            || bundle.ranker.as_ref().map(|RankerStage { model, .. }| (model.card(), model.session()));
        let found = if self.name == NAMES[0] { retrieval() } else { ranker() };
        let (card, session) =
            found.ok_or_else(|| absent(format!("the active bundle has no {}", self.name)))?;
        Ok(Parts { card, session })
    }

    /// From the request's bytes to the answer: work for a model thread.
    fn run(
        &self,
        read: impl FnOnce(&ModelSpec, usize) -> Result<Inference, ErrorReply>,
    ) -> Result<Answer, ErrorReply> {
        let Parts { card, session } = self.parts()?;
        let spec = session.spec();
        let rows_max = ROWS_MAX.min(OUTPUT_LEN_MAX / spec.output.row_len().max(1));
        let Inference { inputs, rows, wishes } = read(spec, rows_max)?;
        let values: Vec<_> = inputs.iter().map(Tensor::view).collect();
        let mut output = Vec::new();
        // Whatever an engine says: the model is sound, so it is the numbers.
        let refused = |error: ModelError| ErrorReply::new(Code::Invalid, error.to_string());
        session.run(&values, &mut output).map_err(refused)?;
        let (version, spec) = (card.version.to_string(), spec.output.clone());
        Ok(Answer { name: self.name, version, rows, spec, output, wishes })
    }
}

fn platform(session: &Session) -> &'static str {
    match session.kind() {
        EngineKind::Ort => "onnxruntime_onnx",
        EngineKind::Tract => "tract_onnx",
    }
}

fn absent(message: String) -> ErrorReply {
    ErrorReply::new(Code::NotFound, message)
}
