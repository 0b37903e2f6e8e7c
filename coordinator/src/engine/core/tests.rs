//! Short stories of one event after the other. `simulation.rs` tells the long ones.

use std::sync::Arc;

use potluck_proto::{LogitBias, Logprobs, PROTOCOL, RunResult, Sampling, TokenLogprob};

use super::*;

const END_TOKEN: u32 = 99;

fn ring(n_stages: u32, max_sequences: u32) -> RingLimits {
    RingLimits {
        n_stages,
        context_tokens: 400,
        max_sequences,
        max_step_tokens: 512,
        n_vocab: 100,
        protocol: PROTOCOL,
    }
}

fn request(n_prompt: usize, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: (0..n_prompt as u32).map(|i| i % 50).collect(),
        max_tokens,
        sampling: Sampling::greedy(),
        end_tokens: Arc::new([END_TOKEN]),
    }
}

/// A core, and a clock that runs a millisecond an event.
struct Story {
    core: Core,
    now: Duration,
}

impl Story {
    fn begin(limits: RingLimits) -> Story {
        let mut story = Story {
            core: Core::new(),
            now: Duration::ZERO,
        };
        assert_eq!(story.ring(RingEvent::Up(limits)), "");
        story
    }

    fn then(&mut self, event: Event) -> String {
        self.now += Duration::from_millis(1);
        let actions = self.core.step(self.now, event);
        let lines: Vec<_> = actions.iter().map(line).collect();
        lines.join("; ")
    }

    fn ring(&mut self, event: RingEvent) -> String {
        self.then(Event::Ring(event))
    }

    fn submit(&mut self, seq: u64, n_prompt: usize, max_tokens: u32) -> String {
        self.then(Event::Submit(SeqId(seq), request(n_prompt, max_tokens)))
    }

    fn cancel(&mut self, seq: u64) -> String {
        self.then(Event::Cancel(SeqId(seq)))
    }

    /// Step `id` comes back with runs of `(seq, kv_len, token)`.
    fn result(&mut self, id: u64, runs: &[(u64, u32, Option<u32>)]) -> String {
        let runs = runs.iter().map(|&(seq, kv_len, token)| RunResult {
            seq: SeqId(seq),
            kv_len,
            token,
            logprobs: None,
        });
        self.ring(RingEvent::Result(StepResult {
            id: StepId(id),
            runs: runs.collect(),
            stage_us: vec![],
        }))
    }

    fn fault(&mut self, step: u64, seq: u64, kind: FaultKind) -> String {
        self.ring(RingEvent::Fault(RunFault {
            seq: SeqId(seq),
            step: StepId(step),
            kind,
            kv_len: 0,
            message: "worker's words".into(),
        }))
    }
}

/// An action in short: `#step seq@pos+n_tokens?index -released` and `seq: event`.
fn line(action: &Action) -> String {
    match action {
        Action::Send(step) => {
            let runs = step.runs.iter().map(|run| {
                let (pos, n_tokens) = (run.pos, run.tokens.len());
                let asks = run.sampling.as_ref().map(|s| format!("?{}", s.index));
                format!(
                    " {}@{pos}+{n_tokens}{}",
                    run.seq.0,
                    asks.unwrap_or_default()
                )
            });
            let released = step.release.iter().map(|seq| format!(" -{}", seq.0));
            format!("#{}{}", step.id.0, runs.chain(released).collect::<String>())
        }
        Action::Emit(seq, GenerateEvent::Queued { position }) => {
            format!("{}: queued {position}", seq.0)
        }
        Action::Emit(seq, GenerateEvent::Progress { done, total }) => {
            format!("{}: {done}/{total}", seq.0)
        }
        Action::Emit(seq, GenerateEvent::Token { id, index, .. }) => {
            format!("{}: [{index}]={id}", seq.0)
        }
        Action::Emit(seq, GenerateEvent::Finished(f)) => {
            format!("{}: {:?} {}+{}", seq.0, f.reason, f.n_prompt, f.n_generated)
        }
        Action::Emit(seq, GenerateEvent::Failed(error)) => format!("{}: {error}", seq.0),
    }
}

#[test]
fn an_answer_from_its_prompt_to_its_release() {
    let mut story = Story::begin(ring(1, 4));
    assert_eq!(story.submit(0, 3, 2), "#0 0@0+3?0");
    assert_eq!(story.core.status().running, 1);
    assert_eq!(
        story.result(0, &[(0, 3, Some(9))]),
        "0: 3/3; 0: [0]=9; #1 0@3+1?1"
    );
    assert_eq!(
        story.result(1, &[(0, 4, Some(8))]),
        "0: [1]=8; 0: Length 3+2; #2 -0"
    );
    assert_eq!(story.result(2, &[]), "");
    let status = story.core.status();
    assert_eq!((status.running, status.steps_in_flight), (0, 0));
    assert_eq!((status.n_prompt_tokens, status.n_generated_tokens), (3, 2));
}

#[test]
fn an_end_token_ends_the_answer_and_is_no_part_of_it() {
    let mut story = Story::begin(ring(1, 4));
    story.submit(0, 3, 5);
    story.result(0, &[(0, 3, Some(9))]);
    let end = story.result(1, &[(0, 4, Some(END_TOKEN))]);
    assert_eq!(end, "0: Stop 3+1; #2 -0");
}

#[test]
fn a_full_context_ends_the_answer() {
    let mut story = Story::begin(ring(1, 4));
    assert_eq!(story.submit(0, 398, 50), "#0 0@0+398?0");
    let first = story.result(0, &[(0, 398, Some(9))]);
    assert_eq!(first, "0: 398/398; 0: [0]=9; #1 0@398+1?1");
    let second = story.result(1, &[(0, 399, Some(9))]);
    assert_eq!(second, "0: [1]=9; 0: Length 398+2; #2 -0");
}

#[test]
fn times_are_counted_from_the_place_in_the_ring() {
    let mut story = Story::begin(ring(1, 1));
    story.submit(0, 3, 2);
    story.now += Duration::from_millis(29);
    story.result(0, &[(0, 3, Some(9))]);
    story.now += Duration::from_millis(9);
    let result = StepResult {
        id: StepId(1),
        runs: vec![RunResult {
            seq: SeqId(0),
            kv_len: 4,
            token: Some(8),
            logprobs: None,
        }],
        stage_us: vec![],
    };
    let actions = story
        .core
        .step(story.now, Event::Ring(RingEvent::Result(result)));
    let finished = Finished {
        reason: FinishReason::Length,
        n_prompt: 3,
        n_generated: 2,
        prompt_ms: 30.0,
        generate_ms: 9.0,
    };
    assert_eq!(
        actions[1],
        Action::Emit(SeqId(0), GenerateEvent::Finished(finished))
    );
}

#[test]
fn a_long_prompt_fills_the_ring_with_chunks() {
    let mut story = Story::begin(ring(2, 4));
    let sent = story.submit(0, 390, 5);
    assert_eq!(sent, "#0 0@0+128; #1 0@128+128; #2 0@256+128");
    assert_eq!(
        story.result(0, &[(0, 128, None)]),
        "0: 128/390; #3 0@384+6?0"
    );
    assert_eq!(story.result(1, &[(0, 256, None)]), "0: 256/390");
    assert_eq!(story.result(2, &[(0, 384, None)]), "0: 384/390");
    let token = story.result(3, &[(0, 390, Some(1))]);
    assert_eq!(token, "0: 390/390; 0: [0]=1; #4 0@390+1?1");
}

#[test]
fn who_waits_moves_up_and_takes_a_place_only_after_its_release() {
    let mut story = Story::begin(ring(1, 1));
    assert_eq!(story.submit(0, 3, 1), "#0 0@0+3?0");
    assert_eq!(story.submit(1, 3, 1), "1: queued 0");
    assert_eq!(story.submit(2, 3, 1), "2: queued 1");
    assert_eq!(story.submit(3, 3, 1), "3: queued 2");
    assert_eq!(story.cancel(1), "2: queued 0; 3: queued 1");
    let end = story.result(0, &[(0, 3, Some(9))]);
    assert_eq!(
        end,
        "0: 3/3; 0: [0]=9; 0: Length 3+1; #1 -0; #2 2@0+3?0; 3: queued 0"
    );
}

#[test]
fn a_cancelled_sequence_is_released_when_all_its_steps_are_back() {
    let mut story = Story::begin(ring(2, 4));
    story.submit(0, 300, 5);
    assert_eq!(story.cancel(0), "");
    assert_eq!(story.core.status().running, 0);
    assert_eq!(story.result(0, &[(0, 128, None)]), "");
    assert_eq!(story.result(1, &[(0, 256, None)]), "");
    assert_eq!(story.result(2, &[(0, 300, Some(5))]), "#3 -0");
    assert_eq!(story.cancel(0), "", "twice");
}

#[test]
fn a_release_rides_with_the_next_step() {
    let mut story = Story::begin(ring(1, 4));
    story.submit(0, 3, 9);
    story.submit(1, 3, 9);
    assert_eq!(story.submit(2, 3, 9), "", "two steps are under way");
    story.cancel(0);
    assert_eq!(story.result(0, &[(0, 3, Some(9))]), "#2 2@0+3?0 -0");
}

#[test]
fn a_sequence_that_was_never_sent_needs_no_release() {
    let mut story = Story::begin(ring(1, 4));
    story.submit(0, 3, 9);
    story.submit(1, 3, 9);
    assert_eq!(
        story.submit(2, 3, 9),
        "",
        "no step leaves, two are under way"
    );
    assert_eq!(story.cancel(2), "");
    story.cancel(0);
    story.cancel(1);
    assert_eq!(story.result(0, &[(0, 3, Some(9))]), "#2 -0");
    assert_eq!(story.result(1, &[(1, 3, Some(9))]), "#3 -1");
}

#[test]
fn a_fault_ends_its_sequence_and_no_other() {
    for told_first in [true, false] {
        let mut story = Story::begin(ring(1, 4));
        story.submit(0, 3, 9);
        story.submit(1, 3, 9);
        let words = "0: a worker has no memory left for this conversation: worker's words";
        if told_first {
            assert_eq!(story.fault(0, 0, FaultKind::KvFull), words);
            assert_eq!(story.result(0, &[]), "#2 -0");
        } else {
            assert_eq!(story.result(0, &[]), "");
            assert!(story.core.deadline().is_some());
            assert_eq!(
                story.fault(0, 0, FaultKind::KvFull),
                format!("{words}; #2 -0")
            );
        }
        assert_eq!(story.core.deadline(), None);
        assert_eq!(story.fault(0, 0, FaultKind::Gap), "", "told again");
        let other = story.result(1, &[(1, 3, Some(9))]);
        assert_eq!(other, "1: 3/3; 1: [0]=9; #3 1@3+1?1");
    }
}

#[test]
fn a_lost_run_that_nobody_explains_ends_its_sequence_after_a_while() {
    let mut story = Story::begin(ring(1, 4));
    story.submit(0, 3, 9);
    assert_eq!(story.result(0, &[]), "");
    let deadline = story.core.deadline().unwrap();
    assert_eq!(deadline, story.now + FAULT_GRACE);
    assert_eq!(story.then(Event::Tick), "", "too early");
    story.now = deadline;
    let end = story.then(Event::Tick);
    assert_eq!(
        end,
        "0: a worker did not compute its part of the answer: step 0 came back without it; #1 -0"
    );
}

#[test]
fn impossible_results_end_the_sequence_or_are_ignored() {
    let fails = [
        ("too little held", (0, 2, Some(9)), "holds 2 positions"),
        ("too much held", (0, 4, Some(9)), "holds 4 positions"),
        ("no token", (0, 3, None), "no token where token 0"),
        ("no such token", (0, 3, Some(100)), "token 100 is outside"),
    ];
    for (what, run, words) in fails {
        let mut story = Story::begin(ring(1, 4));
        story.submit(0, 3, 9);
        let told = story.result(0, &[run]);
        assert!(told.contains(words), "{what}: {told}");
        assert!(told.ends_with("; #1 -0"), "{what}: {told}");
    }
    let mut story = Story::begin(ring(1, 4));
    story.submit(0, 3, 9);
    assert_eq!(story.result(7, &[(0, 3, Some(9))]), "", "unknown step");
    assert_eq!(story.fault(7, 0, FaultKind::Gap), "", "unknown step");
    assert_eq!(story.fault(0, 5, FaultKind::Gap), "", "unknown sequence");
    let runs = [(5, 3, Some(9)), (0, 3, Some(9)), (0, 1, Some(7))];
    let told = story.result(0, &runs);
    assert_eq!(told, "0: 3/3; 0: [0]=9; #1 0@3+1?1", "first run counts");
    assert_eq!(story.result(0, &runs), "", "duplicate");
}

#[test]
fn a_lost_ring_ends_everything_and_a_new_one_begins_at_step_0() {
    let mut story = Story::begin(ring(1, 1));
    story.submit(0, 3, 9);
    story.submit(1, 3, 9);
    let down = RingEvent::Down {
        why: "the worker pi5 is gone".into(),
    };
    let words = "the workers were lost before the answer was complete: the worker pi5 is gone; \
                 send the request again";
    assert_eq!(story.ring(down), format!("0: {words}; 1: {words}"));
    assert_eq!(
        story.submit(2, 3, 9),
        "2: the model is not ready: the worker pi5 is gone; try again in a moment"
    );
    assert_eq!(story.result(0, &[(0, 3, Some(9))]), "", "too late");
    assert_eq!(story.fault(0, 0, FaultKind::Gap), "", "too late");
    assert_eq!(story.ring(RingEvent::Up(ring(1, 1))), "");
    assert_eq!(story.submit(3, 3, 9), "#0 3@0+3?0");
    let again = story.ring(RingEvent::Up(ring(1, 1)));
    assert!(again.contains("arranged anew"), "{again}");
    assert_eq!(story.submit(4, 3, 9), "#0 4@0+3?0");
}

#[test]
fn requests_that_cannot_be_served_are_refused() {
    let mut story = Story::begin(ring(1, 1));
    assert!(story.submit(0, 0, 5).contains("prompt is empty"));
    assert!(story.submit(1, 400, 5).contains("has 400 tokens"));
    let mut foreign = request(3, 5);
    foreign.prompt[1] = 100;
    let told = story.then(Event::Submit(SeqId(2), foreign));
    assert!(told.contains("token 100 is outside"), "{told}");
    let mut hot = request(3, 5);
    hot.sampling.temperature = f32::NAN;
    let told = story.then(Event::Submit(SeqId(3), hot));
    assert!(told.contains("`temperature`"), "{told}");
    assert_eq!(story.submit(4, 3, 0), "4: Length 3+0");
    assert_eq!(story.core.status().steps_in_flight, 0);

    story.submit(5, 3, 5);
    for seq in 6..6 + MAX_WAITING as u64 {
        let queued = format!("{seq}: queued {}", seq - 6);
        assert_eq!(story.submit(seq, 3, 5), queued);
    }
    let told = story.submit(99, 3, 5);
    assert_eq!(
        told,
        "99: 32 requests are waiting already; try again in a moment"
    );
    let status = story.core.status();
    assert_eq!((status.running, status.waiting), (1, MAX_WAITING));
}

/// Step 0 comes back with token 7 of sequence 0 and these log-probabilities.
fn drawn(story: &mut Story, logprobs: Option<Logprobs>) -> Vec<Action> {
    let result = StepResult {
        id: StepId(0),
        runs: vec![RunResult {
            seq: SeqId(0),
            kv_len: 3,
            token: Some(7),
            logprobs,
        }],
        stage_us: vec![],
    };
    let event = Event::Ring(RingEvent::Result(result));
    story.core.step(story.now, event)
}

fn asking_for_logprobs() -> GenerateRequest {
    GenerateRequest {
        sampling: Sampling {
            top_logprobs: Some(1),
            ..Sampling::greedy()
        },
        ..request(3, 1)
    }
}

#[test]
fn log_probabilities_come_with_their_token_or_the_answer_fails() {
    let logprobs = |token| Logprobs {
        drawn: -0.5,
        top: vec![TokenLogprob {
            token,
            logprob: -0.25,
        }],
    };
    let after = |request, told: Option<Logprobs>| {
        let mut story = Story::begin(ring(1, 1));
        story.then(Event::Submit(SeqId(0), request));
        drawn(&mut story, told)
    };
    let good = after(asking_for_logprobs(), Some(logprobs(99)));
    let token = GenerateEvent::Token {
        id: 7,
        index: 0,
        logprobs: Some(logprobs(99)),
    };
    assert!(good.contains(&Action::Emit(SeqId(0), token)), "{good:?}");
    let failed = |actions: Vec<Action>, error| {
        let failed = Action::Emit(SeqId(0), GenerateEvent::Failed(error));
        assert!(actions.contains(&failed), "{actions:?}");
    };
    let missing = GenerateError::LogprobsMissing { index: 0 };
    failed(after(asking_for_logprobs(), None), missing);
    let (id, n_vocab) = (100, 100);
    failed(
        after(asking_for_logprobs(), Some(logprobs(id))),
        GenerateError::TokenOutOfVocabulary { id, n_vocab },
    );
    // What nobody asked for is not told.
    let unasked = after(request(3, 1), Some(logprobs(1)));
    let token = GenerateEvent::Token {
        id: 7,
        index: 0,
        logprobs: None,
    };
    assert!(unasked.contains(&Action::Emit(SeqId(0), token)));
}

#[test]
fn an_older_worker_is_not_asked_for_what_it_would_ignore() {
    let old = RingLimits {
        protocol: PROTOCOL - 1,
        ..ring(1, 1)
    };
    let mut story = Story::begin(old);
    let refused = story.then(Event::Submit(SeqId(0), asking_for_logprobs()));
    assert!(
        refused.contains("it speaks protocol 2, 3 is needed"),
        "{refused}"
    );
    assert_eq!(story.submit(1, 3, 2), "#0 1@0+3?0");
}

#[test]
fn biases_are_for_tokens_that_there_are() {
    let mut story = Story::begin(ring(1, 1));
    let biased = GenerateRequest {
        sampling: Sampling {
            logit_bias: [LogitBias {
                token: 100,
                bias: 1.0,
            }]
            .into(),
            ..Sampling::greedy()
        },
        ..request(3, 1)
    };
    let refused = story.then(Event::Submit(SeqId(0), biased));
    assert!(refused.contains("token 100 is outside"), "{refused}");
}
