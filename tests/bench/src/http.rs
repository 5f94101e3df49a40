//! A lean client of HTTP/1.1 with keep-alive, plain or over TLS 1.3 with AES-128-GCM: requests are bytes that were written before
//! the clock ran, and of an answer only what frames it is read. So that on shared cores it is the servers that are measured.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf as _, Bytes, BytesMut};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long an exchange may take, and a connection to be made.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest answer that is taken, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Most header lines of an answer.
const HEADERS_MAX: usize = 64;
/// The name that certificates of local deployments carry.
pub const HOST: &str = "localhost";

/// Where a server is, and how it is spoken to.
#[derive(Clone)]
pub struct Server {
    /// `host:port`.
    pub address: String,
    /// None: without TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Trusts the CA in this file, and offers one version and one cipher: whoever answers, the work is the same.
///
/// # Errors
/// Where the file holds no certificate.
pub fn tls(ca: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).with_context(|| format!("cannot read {}", ca.display()))?)?;
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let builder =
        ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A request's bytes. With a body it is a POST of JSON.
pub fn request(path: &str, bearer: Option<&str>, body: Option<&str>) -> Bytes {
    let method = if body.is_some() { "POST" } else { "GET" };
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n");
    if let Some(key) = bearer {
        text += &format!("authorization: Bearer {key}\r\n");
    }
    if let Some(body) = body {
        text += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    text += "\r\n";
    text += body.unwrap_or_default();
    text.into()
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, for one request at a time.
pub struct Connection {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, without the framing of chunks.
    pub body: Bytes,
}

/// How an answer's end is found (RFC 9112, 6.3).
enum Framing {
    Length(usize),
    Chunks,
}

impl Connection {
    /// Connects, and shakes hands.
    ///
    /// # Errors
    /// Where nobody answers in time, or shows another certificate.
    pub async fn open(server: &Server) -> anyhow::Result<Self> {
        let opening = async {
            let stream = TcpStream::connect(&server.address).await?;
            stream.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match &server.tls {
                None => Box::new(stream),
                Some(config) => {
                    let connector = TlsConnector::from(Arc::clone(config));
                    Box::new(connector.connect(ServerName::try_from(HOST)?, stream).await?)
                }
            };
            anyhow::Ok(Self { stream, buffer: BytesMut::with_capacity(48 * 1024) })
        };
        let opened = tokio::time::timeout(WITHIN, opening).await.context("it took too long");
        opened.and_then(|opened| opened).with_context(|| format!("cannot connect to {}", server.address))
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// Where it does not come in time, or is no HTTP; the connection is of no more use then.
    pub async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        let exchange = async {
            self.stream.write_all(request).await?;
            self.stream.flush().await?;
            let (status, framing) = self.head().await?;
            let body = match framing {
                Framing::Length(length) => self.take(length).await?,
                Framing::Chunks => self.chunks().await?,
            };
            Ok(Answer { status, body })
        };
        tokio::time::timeout(WITHIN, exchange).await.context("no answer in time")?
    }

    async fn head(&mut self) -> anyhow::Result<(u16, Framing)> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut head = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(length) = head.parse(&self.buffer)? {
                let status = head.code.unwrap_or_default();
                let framing = framing(head.headers)?;
                self.buffer.advance(length);
                return Ok((status, framing));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.buffer.len() <= ANSWER_BYTES_MAX,
            "an answer of more than {ANSWER_BYTES_MAX} bytes"
        );
        anyhow::ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection ended");
        Ok(())
    }

    async fn take(&mut self, length: usize) -> anyhow::Result<Bytes> {
        self.buffer.reserve(length.min(ANSWER_BYTES_MAX).saturating_sub(self.buffer.len()));
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn chunks(&mut self) -> anyhow::Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let (head, length) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) => self.fill().await?,
                    Err(_) => anyhow::bail!("a chunk without a size"),
                }
            };
            self.buffer.advance(head);
            let length = usize::try_from(length)?;
            body.extend_from_slice(&self.take(length).await?);
            anyhow::ensure!(&self.take(2).await?[..] == b"\r\n", "a chunk without an end, or with trailers");
            if length == 0 {
                return Ok(body.freeze());
            }
        }
    }
}

fn framing(headers: &[httparse::Header<'_>]) -> anyhow::Result<Framing> {
    let value = |name: &str| {
        let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    match (value("content-length"), value("transfer-encoding")) {
        (Some(length), _) => Ok(Framing::Length(length.trim().parse()?)),
        (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunks),
        _ => anyhow::bail!("an answer whose end cannot be found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(text: &'static str) -> anyhow::Result<Answer> {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let serving = tokio::spawn(async move {
            let mut asked = [0; 4];
            theirs.read_exact(&mut asked).await.unwrap();
            theirs.write_all(text.as_bytes()).await.unwrap();
        });
        let mut connection = Connection { stream: Box::new(ours), buffer: BytesMut::new() };
        let answer = connection.ask(b"ask\n").await;
        serving.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_end_where_they_say() {
        let plain = answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
        assert_eq!((plain.status, &plain.body[..]), (200, &b"hello"[..]));
        let chunked = "HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        let chunked = answer(chunked).await.unwrap();
        assert_eq!((chunked.status, &chunked.body[..]), (404, &b"hello"[..]));
        assert!(answer("HTTP/1.1 200 OK\r\n\r\nhello").await.is_err());
        assert!(answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel").await.is_err());
    }

    #[test]
    fn a_request_with_a_body_is_a_post() {
        let text = request("/a", Some("key"), Some("{}"));
        let text = std::str::from_utf8(&text).unwrap();
        assert!(text.starts_with("POST /a HTTP/1.1\r\n") && text.ends_with("content-length: 2\r\n\r\n{}"));
        assert!(text.contains("authorization: Bearer key\r\n"));
    }
}
