//! Asks a running coordinator over its API, as `potluck status` does.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use potluck_coordinator::dirs;
use potluck_coordinator::keys::LocalToken;
use potluck_link::state_dir::StateDir;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::api_tls::certificates;
use super::own_cluster;
use crate::flags::DEFAULT_HTTP;

/// The variable with a key. There is no flag for a key itself: command lines can be read by every user of a machine.
const KEY_VARIABLE: &str = "POTLUCK_API_KEY";

/// Which coordinator, and with what.
#[derive(Args)]
pub struct ClientFlags {
    /// Where the coordinator's API listens: HOST:PORT, or https://HOST:PORT if it was given a certificate
    #[arg(long, env = "POTLUCK_HTTP", value_name = "HOST:PORT", default_value_t = ApiAddress::default())]
    pub http: ApiAddress,
    /// A file with the API key to use [default: POTLUCK_API_KEY, or what the coordinator left for its own user]
    #[arg(long, env = "POTLUCK_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The certificate to trust, or the one that vouches for it, as PEM
    #[arg(long, env = "POTLUCK_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// `host:port`, `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAddress {
    https: bool,
    /// An IPv6 address without its brackets.
    host: String,
    port: u16,
}

/// Text that is no such address.
#[derive(Debug, thiserror::Error)]
#[error("write it as 127.0.0.1:7460, http://127.0.0.1:7460 or https://attic.local:7460")]
pub struct BadApiAddress;

impl Default for ApiAddress {
    fn default() -> ApiAddress {
        ApiAddress {
            https: false,
            host: DEFAULT_HTTP.ip().to_string(),
            port: DEFAULT_HTTP.port(),
        }
    }
}

impl FromStr for ApiAddress {
    type Err = BadApiAddress;

    fn from_str(text: &str) -> Result<ApiAddress, BadApiAddress> {
        let uri: Uri = text.parse().map_err(|_| BadApiAddress)?;
        let https = match uri.scheme_str() {
            None | Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(BadApiAddress),
        };
        let host = uri.host().ok_or(BadApiAddress)?;
        let host = host.trim_matches(['[', ']']);
        Ok(ApiAddress {
            https,
            host: reachable(host),
            port: uri.port_u16().ok_or(BadApiAddress)?,
        })
    }
}

/// A server that listens on every address is asked at this machine's own.
fn reachable(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Ipv4Addr::LOCALHOST.to_string(),
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Ipv6Addr::LOCALHOST.to_string(),
        _ => host.to_owned(),
    }
}

impl ApiAddress {
    /// As it stands in a `Host` header.
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https://" } else { "" };
        write!(f, "{scheme}{}", self.authority())
    }
}

impl ClientFlags {
    /// What the API answers to GET. `cluster` is whose token is used on this machine if no key is given.
    pub async fn get(&self, path: &str, cluster: &str) -> anyhow::Result<Bytes> {
        let key = self.key()?;
        let address = &self.http;
        let stream = TcpStream::connect((address.host.as_str(), address.port))
            .await
            .with_context(|| {
                format!("no coordinator answers at {address}; start one with `potluck serve`, or name it with --http")
            })?;
        // The token is for the coordinator of this machine and nobody else's ears.
        let key = match stream.peer_addr()?.ip().to_canonical().is_loopback() {
            true => key.or_else(|| local_token(cluster)),
            false => key,
        };
        let request = request(path, &address.authority(), key.as_deref())?;
        let response = match self.tls(cluster)? {
            None => exchange(stream, request).await.with_context(|| {
                format!(
                    "{address} does not answer in plain HTTP; if it was given a certificate, ask https://{address} with --ca FILE"
                )
            })?,
            Some(connector) => exchange(self.encrypted(connector, stream).await?, request).await?,
        };
        self.body(response).await
    }

    fn key(&self) -> anyhow::Result<Option<String>> {
        let text = match &self.api_key_file {
            Some(path) => Some(read_key(path)?),
            None => std::env::var(KEY_VARIABLE).ok(),
        };
        let text = text.map(|text| text.trim().to_owned());
        Ok(text.filter(|text| !text.is_empty()))
    }

    fn tls(&self, cluster: &str) -> anyhow::Result<Option<TlsConnector>> {
        if self.ca.is_none() && !self.http.https {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        for certificate in self.trusted(cluster)? {
            roots
                .add(certificate)
                .context("a certificate that is to be trusted cannot be used (--ca)")?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }

    /// The certificate that the user named, or that of this machine's own cluster.
    fn trusted(&self, cluster: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        if let Some(ca) = &self.ca {
            return Ok(certificates(ca, "--ca")?);
        }
        let own = own_cluster::find(cluster)?.with_context(|| {
            format!(
                "there is nothing by which to know the certificate of {}; give --ca FILE with what `potluck keys ca` prints on the \
                 coordinator's machine",
                self.http
            )
        })?;
        Ok(vec![own.authority().certificate().clone()])
    }

    async fn encrypted(
        &self,
        connector: TlsConnector,
        stream: TcpStream,
    ) -> anyhow::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        let name = ServerName::try_from(self.http.host.clone())
            .with_context(|| format!("a certificate cannot be made out to `{}`", self.http.host))?;
        connector
            .connect(name, stream)
            .await
            .with_context(|| format!("no encrypted connection to {}", self.http))
    }

    async fn body(&self, response: Response<hyper::body::Incoming>) -> anyhow::Result<Bytes> {
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED => bail!(
                "{} wants another key: {}; give it with --api-key-file FILE or in {KEY_VARIABLE}",
                self.http,
                reason(&body)
            ),
            status => bail!(
                "the server at {} answered {status}; is it a potluck coordinator?",
                self.http
            ),
        }
    }
}

fn read_key(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {} (--api-key-file)", path.display()))
}

/// What the coordinator of this machine and user left, if there is any.
fn local_token(cluster: &str) -> Option<String> {
    let folder = dirs::cluster_dir(cluster).ok()?;
    // Opening would make the folder.
    let dir = StateDir::open(folder.is_dir().then_some(folder)?).ok()?;
    LocalToken::published(&dir).ok()?
}

fn request(
    path: &str,
    authority: &str,
    key: Option<&str>,
) -> anyhow::Result<Request<Empty<Bytes>>> {
    let mut request = Request::get(path)
        .header("host", authority)
        .body(Empty::new())?;
    if let Some(key) = key {
        let value = HeaderValue::try_from(format!("Bearer {key}"));
        let mut value = value.ok().context(
            "what was given as an API key has characters that no key has; it is one line of text",
        )?;
        value.set_sensitive(true);
        request.headers_mut().insert("authorization", value);
    }
    Ok(request)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> anyhow::Result<Response<hyper::body::Incoming>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// The sentence in an error's body.
fn reason(body: &[u8]) -> String {
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = body.and_then(|body| Some(body["error"]["message"].as_str()?.to_owned()));
    message.unwrap_or_else(|| "it does not say why".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_in_several_ways() {
        for (text, https, authority) in [
            ("127.0.0.1:1", false, "127.0.0.1:1"),
            ("localhost:7460", false, "localhost:7460"),
            ("[::1]:1", false, "[::1]:1"),
            ("0.0.0.0:1", false, "127.0.0.1:1"),
            ("[::]:1", false, "[::1]:1"),
            ("http://attic.local:1", false, "attic.local:1"),
            ("https://10.0.0.7:1/", true, "10.0.0.7:1"),
        ] {
            let address: ApiAddress = text.parse().unwrap();
            assert_eq!(address.https, https, "{text}");
            assert_eq!(address.authority(), authority, "{text}");
        }
        for text in [
            "",
            "attic",
            "127.0.0.1",
            "ftp://attic:1",
            "http://",
            "a b:1",
        ] {
            assert!(text.parse::<ApiAddress>().is_err(), "{text}");
        }
        let default = ApiAddress::default();
        assert_eq!(default.to_string().parse::<ApiAddress>().unwrap(), default);
    }
}
