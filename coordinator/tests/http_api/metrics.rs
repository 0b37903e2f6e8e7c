//! What monitoring reads.

use serde_json::json;

use crate::client::{ask, chat, get, with};
use crate::server::{self, USUAL};

#[tokio::test]
async fn metrics_count_answers_and_tokens() {
    let server = server::start(USUAL).await;
    ask(server.address, &chat("say:hello")).await;
    ask(
        server.address,
        &with(chat("say:hello"), json!({"stream": true})),
    )
    .await;
    ask(server.address, &with(chat("x"), json!({"top_p": 7}))).await;
    let reply = get(server.address, "/metrics").await;
    assert_eq!(reply.status, 200);
    let kind = reply.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let lines: Vec<_> = reply.body.lines().collect();
    for line in [
        "# TYPE potluck_requests counter",
        r#"potluck_requests_total{outcome="done",status="200"} 2"#,
        r#"potluck_requests_total{outcome="refused",status="400"} 1"#,
        "potluck_generated_tokens_total 10",
        "potluck_requests_running 0",
        "potluck_requests_waiting 0",
        "potluck_ready 1",
        "# UNIT potluck_time_to_first_token_seconds seconds",
        "potluck_time_to_first_token_seconds_count 2",
        "potluck_time_per_output_token_seconds_count 2",
        "potluck_request_duration_seconds_count 3",
    ] {
        assert!(lines.contains(&line), "no {line} in {}", reply.body);
    }
    assert_eq!(lines.last(), Some(&"# EOF"));
}
