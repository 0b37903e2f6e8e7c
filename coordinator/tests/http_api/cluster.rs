//! Health, models, and the view of the cluster.

use potluck_coordinator::http::{ClusterState, NodeReport, StageReport, StatusReport};
use serde_json::json;

use crate::client::get;
use crate::model;
use crate::server::{self, USUAL};

#[tokio::test]
async fn health_follows_the_cluster() {
    let server = server::start(USUAL).await;
    let reply = get(server.address, "/health").await;
    assert_eq!((reply.status, reply.json()), (200, json!({"status": "ok"})));
    let why = Some("2.1 GB of memory are missing".to_owned());
    let cases = [
        (ClusterState::Starting, None, "Loading model"),
        (ClusterState::Loading, None, "Loading model"),
        (
            ClusterState::WaitingForWorkers,
            why.clone(),
            "2.1 GB of memory are missing",
        ),
        (ClusterState::Down, why, "2.1 GB of memory are missing"),
    ];
    for (state, why, message) in cases {
        server.report.send_replace(StatusReport {
            why,
            ..server::report(state)
        });
        let reply = get(server.address, "/health").await;
        assert_eq!(reply.status, 503);
        assert_eq!(reply.header("retry-after"), Some("5"));
        let error = json!({"code": 503, "message": message, "type": "unavailable_error"});
        assert_eq!(reply.json(), json!({"error": error}));
    }
}

#[tokio::test]
async fn the_served_model_is_listed() {
    let server = server::start(USUAL).await;
    let list = get(server.address, "/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let card = &list["data"][0];
    assert_eq!(card["id"], model::NAME);
    assert_eq!(card["object"], "model");
    assert_eq!(card["created"], 1_700_000_000);
    assert_eq!(card["owned_by"], "potluck");
    assert_eq!(
        card["meta"],
        json!({"n_ctx": 256, "n_vocab": model::N_VOCAB})
    );
    for path in ["/v1/models/echo/tiny", "/v1/models/echo%2Ftiny"] {
        assert_eq!(get(server.address, path).await.json(), *card, "{path}");
    }
}

#[tokio::test]
async fn the_cluster_is_shown_as_reported() {
    let server = server::start(USUAL).await;
    let worker = NodeReport {
        id: "a1b2".into(),
        name: "attic".into(),
        address: "127.0.0.1:4000".into(),
        state: "ready".into(),
        isa: "avx2".into(),
        threads: 4,
        memory_budget_bytes: 6 << 30,
        memory_total_bytes: 8 << 30,
        weight_bytes_per_second: 2.5e10,
        macs_per_second: 4e11,
        layers: Some([0, 12]),
        bytes: 1 << 30,
        version: "0.1.0".into(),
    };
    let stage = StageReport {
        worker: "a1b2".into(),
        layers: [0, 12],
        bytes: 1 << 30,
    };
    let report = StatusReport {
        workers: vec![worker],
        stages: vec![stage],
        running: 2,
        ..server::report(ClusterState::Ready)
    };
    server.report.send_replace(report.clone());
    let status = get(server.address, "/potluck/v1/status").await;
    assert_eq!(status.json()["state"], "ready");
    assert_eq!(
        serde_json::from_str::<StatusReport>(&status.body).unwrap(),
        report
    );
    let nodes = get(server.address, "/potluck/v1/nodes").await.json();
    assert_eq!(nodes, json!({"nodes": status.json()["workers"]}));
}
