//! A real model is told of a tool and calls it; another goes on with an answer that was begun.

use potluck_tests::cluster::Cluster;
use potluck_tests::http::Http;
use potluck_tests::models::{QWEN, SMOLLM2, model, model_if_wanted};
use serde_json::{Value, json};

#[test]
fn qwen_calls_a_tool_and_takes_its_result() {
    let Some(model) = model_if_wanted(QWEN) else {
        return;
    };
    let cluster = Cluster::default();
    let coordinator = cluster.serve(&model, 1, &["--context", "1024"]);
    let _worker = cluster.worker("ann", &[]);
    coordinator.ready(0);
    let http = &coordinator.http;
    let question = json!({"role": "user", "content": "How warm is it in Bonn? Use the tool."});
    let answer = ask(http, json!([question]));
    let message = &answer["message"];
    assert_eq!(answer["finish_reason"], "tool_calls", "{answer}");
    let call = &message["tool_calls"][0];
    assert_eq!(call["function"]["name"], "get_temperature", "{answer}");
    let arguments = call["function"]["arguments"].as_str().expect("a text");
    let arguments: Value = serde_json::from_str(arguments).expect("JSON");
    assert_eq!(arguments, json!({"city": "Bonn"}));
    let result =
        json!({"role": "tool", "tool_call_id": call["id"], "content": "{\"celsius\": 17}"});
    let answer = ask(http, json!([question, message, result]));
    // What so small a model makes of it is another matter.
    assert!(answer["message"].is_object(), "{answer}");
}

/// The one answer to these messages, with a tool on offer.
fn ask(http: &Http, messages: Value) -> Value {
    let city = json!({"type": "string", "description": "The name of the city"});
    let parameters = json!({"type": "object", "properties": {"city": city}, "required": ["city"]});
    let description = "The temperature in a city right now";
    let function =
        json!({"name": "get_temperature", "description": description, "parameters": parameters});
    let tools = json!([{"type": "function", "function": function}]);
    let body = json!({"messages": messages, "tools": tools, "temperature": 0, "max_tokens": 100});
    http.post("/v1/chat/completions", &body).ok()["choices"][0].clone()
}

/// What a model says after its own first words is what it would have said after them anyway.
#[test]
fn a_begun_answer_goes_on_as_the_whole_one_does() {
    let cluster = Cluster::default();
    let coordinator = cluster.serve(&model(SMOLLM2), 1, &["--context", "512"]);
    let _worker = cluster.worker("ann", &[]);
    coordinator.ready(0);
    let question = json!({"role": "user", "content": "Count from one to ten in words."});
    let ask = |messages: Value| {
        let body = json!({"messages": messages, "temperature": 0, "max_tokens": 30});
        let reply = coordinator.http.post("/v1/chat/completions", &body).ok();
        let text = &reply["choices"][0]["message"]["content"];
        text.as_str().expect("text").to_owned()
    };
    let whole = ask(json!([question]));
    let (at, _) = whole
        .match_indices(' ')
        .nth(3)
        .expect("more than three words");
    let (begun, expected) = whole.split_at(at);
    let rest = ask(json!([question, {"role": "assistant", "content": begun}]));
    assert!(rest.starts_with(expected), "{begun:?} {rest:?} {whole:?}");
}
