//! Turns away browsers that a foreign page sends here.
//!
//! Every web page that a user opens can make the browser send requests to this machine, and to others on its network. A page
//! that had its own name resolve to an address of this machine (DNS rebinding) shows in `Host`; any other foreign page shows
//! in `Origin`.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::error::{ApiError, ErrorType};

/// Bytes of a name (RFC 1035).
const MAX_NAME_BYTES: usize = 253;

/// By what a machine is called in the `Host` of a request, without the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// In lower case.
    Name(String),
    Address(IpAddr),
}

/// Text that names no machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither a host's name nor an address; write it without scheme and port, such as attic.example or [fd00::7]"
)]
pub struct BadHost(String);

/// What requests may call this machine. `localhost` and the loopback addresses are always among it.
#[derive(Debug, Clone)]
pub struct AllowedHosts(Arc<[Host]>);

impl AllowedHosts {
    /// These besides `localhost` and the loopback addresses.
    pub fn and_local(hosts: impl IntoIterator<Item = Host>) -> AllowedHosts {
        AllowedHosts(hosts.into_iter().collect())
    }

    fn contain(&self, host: &Host) -> bool {
        host.is_local() || self.0.contains(host)
    }
}

impl Host {
    fn is_local(&self) -> bool {
        match self {
            Host::Name(name) => name == "localhost",
            Host::Address(address) => address.is_loopback(),
        }
    }

    /// The host of `name`, `127.0.0.1` or `[::1]`, with or without a port.
    fn of_authority(authority: &str) -> Option<Host> {
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of an IPv6 address without a port lie within its brackets.
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let good_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
        host.parse().ok().filter(|_| good_port)
    }

    fn of_origin(origin: &str) -> Option<Host> {
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        Host::of_authority(authority?)
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Host {
        Host::Address(address.to_canonical())
    }
}

impl FromStr for Host {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Host, BadHost> {
        let bracketed = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        if let Some(address) = bracketed.and_then(|text| text.parse().ok()) {
            return Ok(IpAddr::V6(address).into());
        }
        if let Ok(address) = text.parse() {
            return Ok(IpAddr::V4(address).into());
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        match (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_plain) {
            true => Ok(Host::Name(text.to_ascii_lowercase())),
            false => Err(BadHost(text.chars().take(MAX_NAME_BYTES).collect())),
        }
    }
}

/// Lets a request through if it names this machine and comes from no foreign page.
pub(super) async fn no_foreign_pages(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Response {
    match check(request.headers(), &state.hosts) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(headers: &HeaderMap, allowed: &AllowedHosts) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let host = host.and_then(Host::of_authority);
    let Some(host) = host.filter(|host| hosts.next().is_none() && allowed.contain(host)) else {
        return Err(refusal(
            "the Host header must name this machine: localhost, 127.0.0.1 or [::1], an address or the name of the machine where \
             it is open to others, or a name allowed with --allow-host; each with or without the port",
        ));
    };
    let may_ask = |origin: &header::HeaderValue| {
        let origin = origin.to_str().ok().and_then(Host::of_origin);
        origin.is_some_and(|origin| origin.is_local() || origin == host)
    };
    if !headers.get_all(header::ORIGIN).iter().all(may_ask) {
        return Err(refusal(
            "requests from web pages of other machines are not accepted",
        ));
    }
    Ok(())
}

fn refusal(message: &str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, ErrorType::PermissionError, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_local_authority(authority: &str) -> bool {
        Host::of_authority(authority).is_some_and(|host| host.is_local())
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        let local = [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:80",
        ];
        for authority in local {
            assert!(is_local_authority(authority), "{authority}");
        }
        let foreign = [
            "",
            ":80",
            "evil.com",
            "evil.com:80",
            "localhost.evil.com",
            "localhost:",
            "localhost:x",
            "127.0.0.1.evil.com",
            "127.0.0.1:99999",
            "192.168.1.2",
            "0.0.0.0",
            "[::]",
            "[::1",
            "::1",
            "localhost:80:80",
            "user@localhost",
            "localhost/x",
            "[127.0.0.1]",
        ];
        for authority in foreign {
            assert!(!is_local_authority(authority), "{authority}");
        }
    }

    #[test]
    fn origins_have_a_scheme_and_a_host() {
        for origin in ["http://localhost:3000", "https://127.0.0.1"] {
            assert!(
                Host::of_origin(origin).is_some_and(|host| host.is_local()),
                "{origin}"
            );
        }
        for origin in [
            "null",
            "https://evil.com",
            "localhost",
            "file://",
            "http://localhost.evil.com",
        ] {
            assert!(
                !Host::of_origin(origin).is_some_and(|host| host.is_local()),
                "{origin}"
            );
        }
    }

    #[test]
    fn what_is_allowed_is_a_name_or_an_address() {
        for (text, host) in [
            ("Attic.Example", Host::Name("attic.example".into())),
            ("192.168.1.7", Host::Address([192, 168, 1, 7].into())),
            ("[::ffff:10.0.0.1]", Host::Address([10, 0, 0, 1].into())),
        ] {
            assert_eq!(text.parse(), Ok(host), "{text}");
        }
        for text in ["", "http://attic", "attic:80", "*", "fd00::7", "a b", "[x]"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }
}
