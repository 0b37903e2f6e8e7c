//! One line for each request, and never a word of what was asked or answered.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::client::{ask, chat, open, post, with};
use crate::server::{self, ENDLESS};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        self.clone()
    }
}

#[tokio::test]
async fn each_request_is_one_line_without_its_text() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(lines.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
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

    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(!log.contains("canary"), "{log}");
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
