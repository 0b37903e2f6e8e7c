//! One line for each request, and never a word of what was asked or answered.

use std::cell::RefCell;
use std::io;

use serde_json::json;

use crate::client::{ask, chat, open, post, send, with};
use crate::keys::Keys;
use crate::server::{self, ENDLESS};

thread_local! {
    /// What this test logs: a test, its server and its ring share one thread.
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_request_is_one_line_without_its_text() {
    // For all threads: a subscriber of this thread alone would miss what other tests have logged before it came.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(|| Lines)
        .init();
    let server = server::start(ENDLESS).await;
    ask(server.address, &chat("say:canary")).await;
    ask(
        server.address,
        &with(chat("say:canary"), json!({"stream": true})),
    )
    .await;
    ask(server.address, &json!({"messages": "canary"})).await;
    ask(server.address, &with(chat("x"), json!({"model": "canary"}))).await;
    let endless = with(chat("forever canary"), json!({"stream": true}));
    drop(
        open(
            server.address,
            &post(endless.to_string().as_bytes()),
            r#""content":"x""#,
        )
        .await,
    );
    server::until_idle(&server).await;
    let secrets = show_keys().await;

    let log = String::from_utf8(LINES.take()).unwrap();
    assert!(!log.contains("canary"), "{log}");
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret} in: {log}");
    }
    let outcomes = [("\"done\"", 2), ("\"refused\"", 2), ("\"disconnected\"", 1)];
    for (outcome, count) in outcomes {
        let found = log
            .lines()
            .filter(|line| line.contains(&format!("outcome={outcome}")))
            .count();
        assert_eq!(found, count, "{outcome} in: {log}");
    }
    assert!(
        log.contains("status=404") && log.contains("error=\"ModelNotFound\""),
        "{log}"
    );
}

/// Shows keys and a token to a server, right ones and wrong ones; these are their secrets.
async fn show_keys() -> [String; 3] {
    let (keys, ann) = Keys::one();
    let removed = keys.add("bob", None);
    keys.file.remove("bob").unwrap();
    let server = keys.serve().await;
    let shown = [ann, removed, keys.token()];
    for key in &shown {
        for bad in ["", "x"] {
            let request = format!(
                "GET /v1/models?key={key} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}{bad}\r\n\
                 Connection: close\r\n\r\n"
            );
            send(server.address, request.as_bytes()).await;
        }
    }
    shown.map(|key| key[key.len() - 43..].to_owned())
}
