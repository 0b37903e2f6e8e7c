//! Law 1: the same model, prompt, seed and options give the same tokens, however and wherever they are computed.

use std::path::Path;

use potluck_kernels::Isa;
use potluck_tests::demo::Demo;
use potluck_tests::logits::{self, eval};
use potluck_tests::long_form;
use potluck_tests::models::{GEMMA3, QWEN, SMOLLM2, model, model_if_wanted};

/// Words with which every model goes on for a while.
const STORY: &str = "The harbour was quiet before dawn. Mara carried three coils of rope to the end of the pier and";

#[test]
fn smollm2_continues_the_same_way_on_every_cluster() {
    every_cluster_agrees(&continuation(&model(SMOLLM2)));
}

#[test]
fn smollm2_answers_the_same_way_on_every_cluster() {
    let model = model(SMOLLM2);
    let question = Demo {
        raw: false,
        prompt: "Name three kinds of boats.",
        ..continuation(&model)
    };
    every_cluster_agrees(&question);
}

#[test]
fn gemma3_continues_the_same_way_on_every_cluster() {
    every_cluster_agrees(&continuation(&model(GEMMA3)));
}

#[test]
fn qwen_continues_the_same_way_on_every_cluster() {
    if let Some(model) = model_if_wanted(QWEN) {
        every_cluster_agrees(&Demo {
            n_tokens: 12,
            ..continuation(&model)
        });
    }
}

#[test]
fn a_cache_of_q8_0_agrees_on_every_cluster_and_instruction_set() {
    let model = model(SMOLLM2);
    let question = Demo {
        kv_cache_type: "q8_0",
        ..continuation(&model)
    };
    let answer = agreed(&question);
    let scalar = Demo {
        isa: "scalar",
        n_threads: 2,
        n_tokens: 6,
        ..question
    };
    assert_eq!(scalar.tokens(), answer[..6], "portable code");
}

fn continuation(model: &Path) -> Demo<'_> {
    Demo {
        model,
        prompt: STORY,
        raw: true,
        n_tokens: if long_form() { 200 } else { 20 },
        temperature: 0.0,
        n_workers: 1,
        n_threads: 1,
        beside_another: false,
        isa: "",
        kv_cache_type: "f16",
        map_weights: false,
    }
}

/// Asks every kind of cluster, greedily and with dice.
fn every_cluster_agrees(question: &Demo<'_>) {
    let greedy = agreed(question);
    let diced = agreed(&Demo {
        temperature: 0.8,
        ..question.clone()
    });
    assert_ne!(greedy, diced, "a temperature of 0.8 chooses otherwise");
}

/// The answer on which clusters of all sizes agree. The first is the plainest: one worker with one thread.
fn agreed(question: &Demo<'_>) -> Vec<u32> {
    let tokens = question.tokens();
    let on = |n_workers, n_threads| Demo {
        n_workers,
        n_threads,
        ..question.clone()
    };
    let mut others = vec![on(1, 2), on(2, 1), on(3, 1), on(3, 2)];
    if long_form() {
        others.extend([on(2, 2), on(5, 1), on(1, 3)]);
    }
    others.push(Demo {
        beside_another: true,
        ..on(2, 1)
    });
    others.push(Demo {
        map_weights: true,
        ..on(2, 1)
    });
    for other in others {
        assert_eq!(
            other.tokens(),
            tokens,
            "one worker with one thread, and {other:?}"
        );
    }
    tokens
}

#[test]
fn every_instruction_set_gives_the_same_answer() {
    let here = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let here: Vec<&str> = here.map(Isa::name).collect();
    println!("instruction sets of this machine: {}", here.join(", "));
    for name in [SMOLLM2, GEMMA3] {
        let model = model(name);
        // Portable code is slow, so the question is short.
        let question = Demo {
            n_tokens: 6,
            prompt: "Once upon a time",
            ..continuation(&model)
        };
        let answer = question.tokens();
        for &isa in &here {
            let forced = Demo {
                isa,
                n_threads: 2,
                ..question.clone()
            };
            assert_eq!(forced.tokens(), answer, "{name} with {isa}");
        }
    }
}

#[test]
fn a_text_is_read_as_it_was_written() {
    // What the model wrote token by token is read again in one go: every position must still prefer the token that follows.
    let model = model(SMOLLM2);
    let written = eval(&model, &logits::text("a1"), &["--greedy", "24"]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("text-and-continuation.txt");
    let text = std::fs::read_to_string(logits::text("a1")).expect("the text");
    std::fs::write(&path, text + &written.greedy_text).expect("the longer text");

    let read = eval(&model, &path, &["--greedy", "0"]);
    let n = written.prompt_tokens.len();
    let all = [written.prompt_tokens.as_slice(), &written.greedy].concat();
    assert_eq!(
        read.prompt_tokens, all,
        "the longer text has the tokens that were written"
    );
    let preferred: Vec<u32> = read.positions[n - 1..]
        .iter()
        .map(|position| position.top[0].0)
        .collect();
    assert_eq!(preferred[..24], written.greedy);
}
