//! Turns away browsers that a foreign page sends here.
//!
//! The API listens on this machine only, but every web page that a user opens can make the browser send requests to it. A page
//! that had its own name resolve to 127.0.0.1 (DNS rebinding) shows in `Host`; any other foreign page shows in `Origin`.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::{ApiError, ErrorType};

/// Lets a request through if it names this machine and comes from no foreign page.
pub(super) async fn local_only(request: Request, next: Next) -> Response {
    match check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() || !host.is_some_and(is_local_authority) {
        return Err(refusal(
            "the Host header must name this machine: localhost, 127.0.0.1 or [::1], with or without the port",
        ));
    }
    let is_local = |origin: &header::HeaderValue| origin.to_str().is_ok_and(is_local_origin);
    if !headers.get_all(header::ORIGIN).iter().all(is_local) {
        return Err(refusal(
            "requests from web pages of other machines are not accepted",
        ));
    }
    Ok(())
}

fn refusal(message: &str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, ErrorType::PermissionError, message)
}

fn is_local_origin(origin: &str) -> bool {
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(is_local_authority)
}

/// `localhost`, `127.0.0.1` or `[::1]`, with or without a port.
fn is_local_authority(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an IPv6 address without a port lie within its brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    port.is_none_or(|port| port.parse::<u16>().is_ok()) && is_local_host(host)
}

fn is_local_host(host: &str) -> bool {
    let address = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .and_then(|host| host.parse().ok().map(IpAddr::V6)),
        None => host.parse().ok().map(IpAddr::V4),
    };
    host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn origins_have_a_scheme_and_a_local_host() {
        assert!(is_local_origin("http://localhost:3000"));
        assert!(is_local_origin("https://127.0.0.1"));
        for origin in [
            "null",
            "https://evil.com",
            "localhost",
            "file://",
            "http://localhost.evil.com",
        ] {
            assert!(!is_local_origin(origin), "{origin}");
        }
    }
}
