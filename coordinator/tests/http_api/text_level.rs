//! Answers without HTTP, as the command line uses them.

use potluck_coordinator::answer::{
    Answer, AnswerError, AnswerEvent, AnswerRequest, Done, Finish, Input,
};
use potluck_proto::Sampling;

use crate::model;
use crate::server::{self, Setup, USUAL};

fn question(text: &str) -> AnswerRequest {
    AnswerRequest {
        input: Input::Raw(text.to_owned()),
        max_tokens: None,
        sampling: Sampling::greedy(),
        biases: vec![],
        ignore_end: false,
        seed: None,
        stop: vec![],
    }
}

/// The pieces of text, all tokens, and the end.
async fn collect(mut answer: Answer) -> (Vec<String>, Vec<u32>, Done) {
    let (mut texts, mut tokens) = (Vec::new(), Vec::new());
    loop {
        match answer.next().await.expect("an end") {
            AnswerEvent::Progress { done, total } => assert!(done <= total),
            AnswerEvent::Delta(delta) => {
                texts.push(delta.text);
                tokens.extend(delta.tokens);
            }
            AnswerEvent::Done(done) => {
                assert!(answer.next().await.is_none());
                return (texts, tokens, done);
            }
            AnswerEvent::Failed(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn every_token_belongs_to_exactly_one_piece() {
    let server = server::start(Setup {
        template: None,
        ..USUAL
    })
    .await;
    let answer = server.answerer.answer(question("say:a€b")).await.unwrap();
    assert_eq!(answer.n_prompt(), 1 + 9);
    let (texts, tokens, done) = collect(answer).await;
    assert_eq!(texts, ["a", "€", "b"]);
    let expected: Vec<u32> = "a€b".bytes().map(model::token_of).collect();
    assert_eq!(tokens, expected);
    assert_eq!(done.finish, Finish::Stop);
    assert_eq!(done.timings.predicted_tokens, 5);
}

#[tokio::test]
async fn what_a_stop_string_held_back_comes_out_at_the_end() {
    let server = server::start(USUAL).await;
    let held = AnswerRequest {
        stop: vec!["abcd".to_owned()],
        ..question("say:xabc")
    };
    let (texts, tokens, _) = collect(server.answerer.answer(held).await.unwrap()).await;
    assert_eq!(texts, ["x", "abc"]);
    assert_eq!(tokens.len(), 4);
    let stopped = AnswerRequest {
        stop: vec!["bc".to_owned()],
        ..question("say:abcdef")
    };
    let (texts, tokens, done) = collect(server.answerer.answer(stopped).await.unwrap()).await;
    assert_eq!(texts.concat(), "a");
    assert_eq!((tokens.len(), done.timings.predicted_tokens), (3, 3));
}

#[tokio::test]
async fn bad_questions_are_refused_before_anything_is_computed() {
    let server = server::start(Setup {
        template: None,
        ..USUAL
    })
    .await;
    let chat = AnswerRequest {
        input: Input::Chat(vec![].into()),
        ..question("")
    };
    let no_template = server.answerer.answer(chat).await.err();
    assert!(
        matches!(no_template, Some(AnswerError::NoChatTemplate { .. })),
        "{no_template:?}"
    );
    let hot = Sampling {
        temperature: f32::NAN,
        ..Sampling::greedy()
    };
    let sampling = server
        .answerer
        .answer(AnswerRequest {
            sampling: hot,
            ..question("x")
        })
        .await
        .err();
    assert!(
        matches!(sampling, Some(AnswerError::Sampling(_))),
        "{sampling:?}"
    );
    let stop = AnswerRequest {
        stop: vec![String::new()],
        ..question("x")
    };
    assert!(matches!(
        server.answerer.answer(stop).await.err(),
        Some(AnswerError::Stop(_))
    ));
    assert_eq!(server.engine.status().n_prompt_tokens, 0);
}
