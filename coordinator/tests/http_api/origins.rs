//! Pages of other machines cannot use a user's browser to reach the API.

use crate::client::send;
use crate::server::{self, USUAL};

#[tokio::test]
async fn only_requests_that_name_this_machine_are_served() {
    let server = server::start(USUAL).await;
    let cases = [
        ("Host: localhost\r\n", 200),
        ("Host: 127.0.0.1:8080\r\n", 200),
        ("Host: [::1]:8080\r\n", 200),
        ("Host: localhost\r\nOrigin: http://localhost:3000\r\n", 200),
        ("Host: localhost\r\nOrigin: http://127.0.0.1\r\n", 200),
        ("Host: evil.com\r\n", 403),
        ("Host: localhost.evil.com\r\n", 403),
        ("Host: 192.168.1.7:8080\r\n", 403),
        ("Host:\r\n", 403),
        ("", 403),
        ("Host: localhost\r\nHost: evil.com\r\n", 403),
        ("Host: localhost\r\nOrigin: https://evil.com\r\n", 403),
        ("Host: localhost\r\nOrigin: null\r\n", 403),
        ("Host: localhost\r\nOrigin: \u{e9}\r\n", 403),
    ];
    for (headers, status) in cases {
        for path in ["/v1/models", "/health", "/potluck/v1/status"] {
            let request = format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
            let reply = send(server.address, request.as_bytes()).await;
            assert_eq!(reply.status, status, "{headers} {path}");
            if status == 403 {
                assert_eq!(
                    reply.json()["error"]["type"],
                    "permission_error",
                    "{headers}"
                );
            }
        }
    }
}

#[tokio::test]
async fn no_page_is_told_that_it_may_read_answers() {
    let server = server::start(USUAL).await;
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.com\r\n\
         Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n";
    let reply = send(server.address, preflight.as_bytes()).await;
    assert_eq!(reply.status, 403);
    assert!(reply.header("access-control-allow-origin").is_none());
}
