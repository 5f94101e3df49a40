//! The protocol over gRPC: KServe's `inference.GRPCInferenceService`, which Triton speaks, too. Its messages stand here as far as they
//! are read or said, with the numbers of their fields in `grpc_predict_v2.proto`; what else comes is skipped. An error's code is what
//! gRPC has for ours, its text ours.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::response::Response;
use inference::{ModelSpec, Tensor, TensorSpec};
use prost::Message;
use proto::{Code, ErrorReply};
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use super::message::{
    Answer, Given, HINTS, Inference, Numbers, datatype, invalid, known_output, known_parameters,
};
use super::{Model, Named, Parts, Permitted, SERVER, platform, ran};
use crate::gateway::Gateway;
use crate::gateway::http::Http;

/// Where its calls come.
pub const ROUTE: &str = "/inference.GRPCInferenceService/{call}";
/// Largest message, in bytes: four bytes a number instead of a dozen of JSON.
const BYTES_MAX: usize = 1024 * 1024;

/// Any call of the service.
pub(in super::super) async fn call(
    State(http): State<Http>,
    Path(call): Path<String>,
    request: Request,
) -> Response {
    let keyed = matches!(call.as_str(), "ModelMetadata" | "ModelInfer");
    let (mut head, body) = request.into_parts();
    if keyed && let Err(refusal) = Permitted::from_request_parts(&mut head, &http).await {
        return status(refusal.reply()).into_http();
    }
    let (gateway, request) = (&http.gateway, Request::from_parts(head, body));
    match call.as_str() {
        "ServerLive" => unary(request, |_: Empty| async { Ok(Is { so: true }) }).await,
        "ServerReady" => unary(request, |_: Empty| async { Ok(Is { so: (http.ready)().is_ok() }) }).await,
        "ServerMetadata" => {
            let (name, version, extension) = SERVER;
            let server =
                Server { name: name.into(), version: version.into(), extensions: vec![extension.into()] };
            unary(request, |_: Empty| async { Ok(server.clone()) }).await
        }
        "ModelReady" => {
            unary(request, |asked: Which| async {
                Ok(Is { so: Model::find(gateway, &asked.named()).is_ok() })
            })
            .await
        }
        "ModelMetadata" => unary(request, |asked: Which| async { metadata(gateway, asked) }).await,
        "ModelInfer" => unary(request, |asked: Asked| infer(gateway, asked)).await,
        _ => Status::unimplemented(format!("there is no call {call}")).into_http(),
    }
}

/// One message, and one back.
async fn unary<Q, A, F>(request: Request, answer: impl Fn(Q) -> F + Send) -> Response
where
    Q: Message + Default + 'static,
    A: Message + 'static,
    F: Future<Output = Result<A, ErrorReply>> + Send,
{
    let service = tower::service_fn(move |asked: tonic::Request<Q>| {
        let answered = answer(asked.into_inner());
        async move { answered.await.map(tonic::Response::new).map_err(|error| status(&error)) }
    });
    // Unpacked, too.
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default()).max_decoding_message_size(BYTES_MAX);
    for packed in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        grpc = grpc.accept_compressed(packed).send_compressed(packed);
    }
    grpc.unary(service, request).await.map(Body::new)
}

fn metadata(gateway: &Gateway, asked: Which) -> Result<Metadata, ErrorReply> {
    let model = Model::find(gateway, &asked.named())?;
    let Parts { card, session } = model.parts()?;
    let spec = session.spec();
    Ok(Metadata {
        name: model.name.to_owned(),
        versions: vec![card.version.to_string()],
        platform: platform(session).to_owned(),
        inputs: spec.inputs.iter().map(TensorMetadata::of).collect(),
        outputs: vec![TensorMetadata::of(&spec.output)],
    })
}

async fn infer(gateway: &Arc<Gateway>, asked: Asked) -> Result<Said, ErrorReply> {
    let named = Which { name: asked.model_name.clone(), version: asked.model_version.clone() }.named();
    let model = Model::find(gateway, &named)?;
    Ok(ran(gateway, move || model.run(|spec, rows_max| asked.read(spec, rows_max))).await?.into())
}

fn status(error: &ErrorReply) -> Status {
    let code = match error.code {
        Code::Malformed | Code::Invalid | Code::TooLarge => tonic::Code::InvalidArgument,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::Forbidden => tonic::Code::PermissionDenied,
        Code::NotFound => tonic::Code::NotFound,
        Code::Conflict | Code::OutOfOrder => tonic::Code::FailedPrecondition,
        Code::RateLimited => tonic::Code::ResourceExhausted,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::Overloaded | Code::Unavailable | Code::NotReady => tonic::Code::Unavailable,
        Code::Corrupt => tonic::Code::DataLoss,
        Code::Internal => tonic::Code::Internal,
    };
    Status::new(code, error.message.clone())
}

/// A request that says nothing.
#[derive(Clone, Copy, PartialEq, Message)]
struct Empty {}

/// `ServerLiveResponse` and others that are yes or no.
#[derive(Clone, Copy, PartialEq, Message)]
struct Is {
    #[prost(bool, tag = "1")]
    so: bool,
}

/// `ServerMetadataResponse`.
#[derive(Clone, PartialEq, Message)]
struct Server {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(string, repeated, tag = "3")]
    extensions: Vec<String>,
}

/// `ModelReadyRequest`, `ModelMetadataRequest`.
#[derive(Clone, PartialEq, Message)]
struct Which {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// `ModelMetadataResponse`.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    versions: Vec<String>,
    #[prost(string, tag = "3")]
    platform: String,
    #[prost(message, repeated, tag = "4")]
    inputs: Vec<TensorMetadata>,
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<TensorMetadata>,
}

/// `TensorMetadata`, and `InferOutputTensor` without what is not said.
#[derive(Clone, PartialEq, Message)]
struct TensorMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
}

/// `ModelInferRequest`. Its inputs are read only when it is known that there are not too many: an empty one takes two bytes here, and
/// a hundred in memory.
#[derive(Clone, PartialEq, Message)]
pub struct Asked {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(string, tag = "2")]
    model_version: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(message, repeated, tag = "4")]
    parameters: Vec<Parameter>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    inputs: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    outputs: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    raw_inputs: Vec<Bytes>,
}

/// `InferInputTensor`.
#[derive(Clone, PartialEq, Message)]
struct Input {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
    #[prost(message, repeated, tag = "4")]
    parameters: Vec<Parameter>,
    #[prost(message, optional, tag = "5")]
    contents: Option<Contents>,
}

/// `InferTensorContents`: of the types that our models have.
#[derive(Clone, PartialEq, Message)]
struct Contents {
    #[prost(int64, repeated, tag = "3")]
    int64: Vec<i64>,
    #[prost(float, repeated, tag = "6")]
    fp32: Vec<f32>,
}

/// `InferRequestedOutputTensor`.
#[derive(Clone, PartialEq, Message)]
struct Output {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    parameters: Vec<Parameter>,
}

/// An entry of a map of `InferParameter`, as far as it is known here whether it means something.
#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(string, tag = "1")]
    name: String,
}

/// `ModelInferResponse`.
#[derive(Clone, PartialEq, Message)]
struct Said {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(string, tag = "2")]
    model_version: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<TensorMetadata>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    raw_outputs: Vec<Vec<u8>>,
}

impl Which {
    /// No version: whichever is active.
    fn named(self) -> Named {
        Named { model: self.name, version: Some(self.version).filter(|version| !version.is_empty()) }
    }
}

impl TensorMetadata {
    fn of(spec: &TensorSpec) -> Self {
        Self { name: spec.name.clone(), datatype: datatype(spec.dtype).to_owned(), shape: spec.dims.clone() }
    }
}

impl Asked {
    /// Checks it against a model. Inputs bring their numbers all in `contents`, or all as bytes beside.
    pub fn read(self, model: &ModelSpec, rows_max: usize) -> Result<Inference, ErrorReply> {
        let (inputs, raw) = (self.inputs, self.raw_inputs);
        if inputs.len() > model.inputs.len() || self.outputs.len() > 1 {
            let message = format!("there are {} inputs, and 1 output", model.inputs.len());
            return Err(invalid(message));
        }
        if !raw.is_empty() && raw.len() != inputs.len() {
            return Err(invalid("raw_input_contents has to be of every input, or of none".to_owned()));
        }
        nothing_else("the request", &self.parameters, HINTS)?;
        for output in self.outputs {
            let Output { name, parameters } = part(output)?;
            known_output(model, &name)?;
            nothing_else(&format!("output {name:?}"), &parameters, &[])?;
        }
        let given = inputs.into_iter().enumerate().map(|(at, input)| {
            let Input { name, datatype, shape, parameters, contents } = part(input)?;
            nothing_else(&format!("input {name:?}"), &parameters, &[])?;
            let numbers = match (raw.get(at), contents) {
                (Some(bytes), None) => Numbers::Bytes(bytes),
                (None, Some(Contents { int64, fp32 })) if fp32.is_empty() => {
                    Numbers::Typed(Tensor::I64(int64))
                }
                (None, Some(Contents { int64, fp32 })) if int64.is_empty() => {
                    Numbers::Typed(Tensor::F32(fp32))
                }
                _ => Numbers::Unclear,
            };
            Ok(Given { name, datatype, shape, numbers })
        });
        let mut read = Inference::of(model, rows_max, given)?;
        read.wishes.id = Some(self.id);
        Ok(read)
    }
}

fn nothing_else(of: &str, parameters: &[Parameter], known: &[&str]) -> Result<(), ErrorReply> {
    known_parameters(of, parameters.iter().map(|parameter| parameter.name.as_str()), known)
}

fn part<M: Message + Default>(bytes: Bytes) -> Result<M, ErrorReply> {
    M::decode(bytes).map_err(|error| ErrorReply::new(Code::Malformed, error.to_string()))
}

impl From<Answer> for Said {
    fn from(answer: Answer) -> Self {
        let tensor = TensorMetadata { shape: answer.shape(), ..TensorMetadata::of(&answer.spec) };
        Self {
            raw_outputs: vec![answer.bytes().collect()],
            outputs: vec![tensor],
            model_name: answer.name.to_owned(),
            model_version: answer.version,
            id: answer.wishes.id.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::model;
    use super::*;

    fn inputs(contents: bool) -> Vec<Input> {
        let contents = |int64: &[i64], fp32: &[f32]| {
            contents.then(|| Contents { int64: int64.to_vec(), fp32: fp32.to_vec() })
        };
        vec![
            Input {
                name: "numbers".into(),
                datatype: "FP32".into(),
                shape: vec![2, 1],
                parameters: Vec::new(),
                contents: contents(&[], &[0.5, 7.0]),
            },
            Input {
                name: "ids".into(),
                datatype: "INT64".into(),
                shape: vec![2, 2],
                parameters: Vec::new(),
                contents: contents(&[1, 2, 3, -4], &[]),
            },
        ]
    }

    fn asked(inputs: &[Input], raw: &[Vec<u8>]) -> Asked {
        Asked {
            id: "a".into(),
            inputs: inputs.iter().map(|input| input.encode_to_vec().into()).collect(),
            raw_inputs: raw.iter().map(|bytes| bytes.clone().into()).collect(),
            ..Asked::default()
        }
    }

    fn raw() -> Vec<Vec<u8>> {
        let (numbers, ids) = ([0.5f32, 7.0].map(f32::to_le_bytes), [1i64, 2, 3, -4].map(i64::to_le_bytes));
        vec![numbers.concat(), ids.concat()]
    }

    #[test]
    fn tensors_come_as_numbers_or_bytes() {
        for asked in [asked(&inputs(true), &[]), asked(&inputs(false), &raw())] {
            let read = asked.read(&model(), 4).unwrap();
            assert_eq!(read.inputs, [Tensor::I64(vec![1, 2, 3, -4]), Tensor::F32(vec![0.5, 7.0])]);
            assert_eq!((read.rows, read.wishes.id.as_deref()), (2, Some("a")));
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let refused = |asked: Asked| asked.read(&model(), 4).unwrap_err().message;
        assert!(refused(asked(&inputs(true), &raw())).contains("does not bring"), "both ways");
        assert!(refused(asked(&inputs(false), &[])).contains("does not bring"));
        assert!(refused(asked(&inputs(false), &raw()[..1])).contains("of every input"));
        let mut swapped = inputs(true);
        swapped[0].contents = swapped[1].contents.clone();
        assert!(refused(asked(&swapped, &[])).contains("2 numbers of its type"));
        let many = Asked { inputs: vec![Bytes::new(); 100_000], ..Asked::default() };
        assert!(refused(many).contains("there are 2 inputs"));
        let garbled = Asked { inputs: vec![Bytes::from_static(b"\xff")], ..Asked::default() };
        assert_eq!(garbled.read(&model(), 4).unwrap_err().code, Code::Malformed);
        let other = Output { name: "other".into(), parameters: Vec::new() }.encode_to_vec().into();
        let other = Asked { outputs: vec![other], ..asked(&inputs(true), &[]) };
        assert!(refused(other).contains("\"other\""));
    }
}
