//! Answers as models write them, and the law that it does not matter how they are cut.

use proptest::prelude::*;

use super::*;

const ONE: &str = r#"{"name": "f", "arguments": {"x": "<tool_call>"}}"#;

fn form(opens: &str) -> ReplyForm {
    ReplyForm {
        calls: CALL_MARKS.iter().find(|marks| marks.opens == opens),
        ..ReplyForm::default()
    }
}

fn reading(opens: &str, thoughts: Thoughts) -> Reading {
    Reading {
        form: form(opens),
        thoughts,
        tools: ["f".to_owned(), "g".to_owned()].into(),
        calls: Calls::Many,
    }
}

/// What comes out of an answer that comes in these pieces, joined.
fn read(reading: &Reading, pieces: &[&str]) -> Vec<ReplyPiece> {
    let mut parser = ReplyParser::new(reading.clone());
    let mut all: Vec<ReplyPiece> = Vec::new();
    let mut given: Vec<ReplyPiece> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    given.extend(parser.finish());
    for piece in given {
        match (all.last_mut(), piece) {
            (Some(ReplyPiece::Text(before)), ReplyPiece::Text(text)) => before.push_str(&text),
            (Some(ReplyPiece::Thought(before)), ReplyPiece::Thought(text)) => {
                before.push_str(&text)
            }
            (_, piece) => all.push(piece),
        }
    }
    all
}

/// The same in a line: texts in quotes, thoughts in parentheses.
fn shown(reading: &Reading, text: &str) -> String {
    let shown = read(reading, &[text]).into_iter().map(|piece| match piece {
        ReplyPiece::Text(text) => format!("{text:?}"),
        ReplyPiece::Thought(text) => format!("({text})"),
        ReplyPiece::Call(call) => format!("{}{}", call.name, call.arguments),
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn hermes_calls() {
    let reading = reading("<tool_call>", Thoughts::Apart);
    let call = r#"f{"x": "<tool_call>"}"#;
    let cases = [
        ("hello", r#""hello""#.to_owned()),
        (" \n", r#"" \n""#.to_owned()),
        (
            &format!("<tool_call>\n{ONE}\n</tool_call>"),
            call.to_owned(),
        ),
        (&format!("<tool_call>{ONE}"), call.to_owned()),
        (
            &format!("\n\n<tool_call>{ONE}</tool_call>\n"),
            call.to_owned(),
        ),
        (
            &format!("Wait.\n<tool_call>{ONE}</tool_call>\n<tool_call>\n{ONE}\n</tool_call>"),
            format!(r#""Wait.\n" {call} {call}"#),
        ),
        (
            &format!("<tool_call>{ONE}\n{ONE}</tool_call>"),
            format!("{call} {call}"),
        ),
        (
            &format!("<tool_call>[{ONE},{ONE}]</tool_call>"),
            format!("{call} {call}"),
        ),
        (
            &format!("<tool_call>{ONE}</tool_call> Done."),
            format!(r#"{call} " Done.""#),
        ),
        (ONE, call.to_owned()),
        (
            &format!("<think>\nhm\n</think>\n\n<tool_call>{ONE}</tool_call>"),
            format!("(hm) {call}"),
        ),
        (
            "<tool_call>{\"name\": \"other\"}</tool_call>",
            "other{}".to_owned(),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(shown(&reading, text), expected, "{text}");
    }
}

#[test]
fn llama_calls() {
    let reading = reading("<|python_tag|>", Thoughts::Apart);
    let call = r#"{"type": "function", "name": "g", "parameters": {"q": [1, {}]}}"#;
    let cases = [
        (call.to_owned(), r#"g{"q": [1, {}]}"#.to_owned()),
        (
            format!("<|python_tag|>{call}"),
            r#"g{"q": [1, {}]}"#.to_owned(),
        ),
        (
            format!("<|python_tag|>{call}; {call}"),
            r#"g{"q": [1, {}]} g{"q": [1, {}]}"#.to_owned(),
        ),
        (
            format!("<|python_tag|>{call};"),
            r#"g{"q": [1, {}]}"#.to_owned(),
        ),
        (
            format!("{call}; and so"),
            r#"g{"q": [1, {}]} "; and so""#.to_owned(),
        ),
        (
            "<|python_tag|>g.call(q=1)".to_owned(),
            r#""<|python_tag|>g.call(q=1)""#.to_owned(),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(shown(&reading, &text), expected, "{text}");
    }
}

#[test]
fn mistral_calls() {
    let reading = reading("[TOOL_CALLS]", Thoughts::Apart);
    let cases = [
        (
            r#"[TOOL_CALLS][{"name": "f", "arguments": {"x": 1}, "id": "abcdefghi"}, {"name": "g", "arguments": {}}]"#,
            r#"f{"x": 1} g{}"#,
        ),
        (r#"[TOOL_CALLS]f[ARGS]{"x": 1}"#, r#"f{"x": 1}"#),
        (
            r#"[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"x": 1}"#,
            r#"f{"x": 1}"#,
        ),
        (
            r#"[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{"y": "]"}"#,
            r#"f{} g{"y": "]"}"#,
        ),
        ("Well: [TOOL_CALLS]f[ARGS]{}", r#""Well: " f{}"#),
        ("[1] [TOOL", r#""[1] [TOOL""#),
        ("[TOOL_CALLS][]", r#""[TOOL_CALLS][]""#),
        ("[TOOL_CALLS]f{}", r#""[TOOL_CALLS]f{}""#),
        ("[TOOL_CALLS][ARGS]{}", r#""[TOOL_CALLS][ARGS]{}""#),
        ("[TOOL_CALLS]f[ARGS][1]", r#""[TOOL_CALLS]f[ARGS][1]""#),
    ];
    for (text, expected) in cases {
        assert_eq!(shown(&reading, text), expected, "{text}");
    }
}

#[test]
fn malformed_calls_are_text_and_what_follows_is_read() {
    let reading = reading("<tool_call>", Thoughts::Apart);
    let good = format!("<tool_call>{ONE}</tool_call>");
    for bad in [
        "<tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}\n</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": {'x': 1}}</tool_call>",
        "<tool_call>{\"name\": \"f\" \"arguments\": {}}</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{]</tool_call>",
        "<tool_call>f(1)</tool_call>",
        "<tool_call>\n<function=f>\n</function>\n</tool_call>",
    ] {
        assert_eq!(shown(&reading, bad), format!("{bad:?}"));
        let both = format!("{bad}{good}");
        let expected = format!(r#"{bad:?} f{{"x": "<tool_call>"}}"#);
        assert_eq!(shown(&reading, &both), expected);
    }
}

#[test]
fn only_json_that_calls_a_tool_is_a_call() {
    let reading = reading("", Thoughts::Apart);
    for text in [
        "{\"name\": \"Ann\", \"arguments\": {}}",
        "{\"name\": \"f\"}",
        "{}",
        "[1, 2]",
        "{oops}",
        "{\"a\": \"b",
        "See {\"name\": \"f\", \"arguments\": {}}",
        "See ```json\n{\"name\": \"f\", \"arguments\": {}}\n```",
        "```json\n{\"name\": \"Ann\", \"arguments\": {}}\n```\n",
        "```json\n{\"city\": 1}```",
        "```rust\nfn f() {}\n```",
        "``` ```",
        "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
    ] {
        assert_eq!(shown(&reading, text), format!("{text:?}"));
    }
    assert_eq!(
        shown(&reading, "{\"name\": \"f\", \"arguments\": {}}"),
        "f{}"
    );
    for fence in ["```json\n", "```", "\n```\n"] {
        let one = format!("{fence}{{\"name\": \"f\", \"arguments\": {{}}}}\n```\n");
        assert_eq!(shown(&reading, &one), "f{}");
        assert_eq!(shown(&reading, &format!("{one}{one}")), "f{} f{}");
    }
    let no_tools = Reading {
        tools: [].into(),
        ..super::tests::reading("<tool_call>", Thoughts::Apart)
    };
    let text = format!("<tool_call>{ONE}</tool_call>");
    assert_eq!(shown(&no_tools, &text), format!("{text:?}"));
}

#[test]
fn thoughts_are_told_apart() {
    let cases = [
        (
            Thoughts::Apart,
            "<think>\na b\n</think>\n\nc",
            r#"(a b) "c""#,
        ),
        (Thoughts::Apart, "\n<think>a</think>", "(a)"),
        (Thoughts::Apart, "<think>\n\n</think>\n\nc", r#""c""#),
        (
            Thoughts::Apart,
            "<think>never ends </thin",
            "(never ends </thin)",
        ),
        (
            Thoughts::Apart,
            "a <think>b</think>",
            r#""a <think>b</think>""#,
        ),
        (Thoughts::Apart, "<thin", r#""<thin""#),
        (
            Thoughts::Begun,
            "a\n</think>\nb</think>",
            r#"(a) "b</think>""#,
        ),
        (Thoughts::Begun, "<think>a</think>", "(<think>a)"),
        (
            Thoughts::InText,
            "<think>a</think>b",
            r#""<think>a</think>b""#,
        ),
    ];
    for (thoughts, text, expected) in cases {
        assert_eq!(shown(&reading("", thoughts), text), expected, "{text}");
    }
}

#[test]
fn text_goes_out_at_once_and_calls_when_they_are_whole() {
    let mut parser = ReplyParser::new(reading("<tool_call>", Thoughts::Apart));
    let text = |text: &str| vec![ReplyPiece::Text(text.to_owned())];
    assert_eq!(parser.push("a <"), text("a "));
    assert_eq!(parser.push("b"), text("<b"));
    assert_eq!(parser.push(" <tool_call>{\"name\":\"f\""), text(" "));
    assert_eq!(parser.push(",\"arguments\":{}"), []);
    let call = Call {
        name: "f".to_owned(),
        arguments: "{}".to_owned(),
    };
    assert_eq!(parser.push("}"), [ReplyPiece::Call(call)]);
    assert_eq!(parser.finish(), []);
}

#[test]
fn an_answer_in_json_is_not_held_to_its_end() {
    let mut parser = ReplyParser::new(reading("<tool_call>", Thoughts::Apart));
    let text = "[{\"city\": \"Bonn\", \"n\": 1}, ";
    assert_eq!(parser.push(text), [ReplyPiece::Text(text.to_owned())]);
    assert_eq!(parser.finish(), []);
}

#[test]
fn the_first_call_can_be_the_only_one() {
    let only = Reading {
        calls: Calls::One,
        ..reading("<tool_call>", Thoughts::Apart)
    };
    let one = "<tool_call>{\"name\": \"g\"}</tool_call>";
    assert_eq!(shown(&only, &format!("{one}{one} and more")), "g{}");
}

#[test]
fn a_call_without_end_is_held_only_so_long() {
    let mut parser = ReplyParser::new(reading("<tool_call>", Thoughts::Apart));
    let mut text = String::from("<tool_call>{\"");
    let mut given: Vec<ReplyPiece> = parser.push(&text);
    for _ in 0..40 {
        let more = "ab".repeat(5_000);
        given.extend(parser.push(&more));
        text.push_str(&more);
        assert!(parser.held.len() < 10);
    }
    assert!(!given.is_empty());
    given.extend(parser.finish());
    let all = given.into_iter().map(|piece| match piece {
        ReplyPiece::Text(text) => text,
        other => panic!("{other:?}"),
    });
    assert!(all.collect::<String>() == text);
}

/// Pieces of which answers are made, and of which wrong ones are.
const WORDS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "<tool",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "f",
    "<|python_tag|>",
    "<think>",
    "</think>",
    "</thi",
    "{\"name\": \"f\", \"arguments\": {\"x\": \"}\"}}",
    "{\"name\": \"g\", \"parameters\": {}}",
    "{\"name\": \"",
    "```json\n",
    "```",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "\\",
    ";",
    ",",
    " ",
    "\n\n",
    "                                        ",
    "é",
    "text",
];

fn answers() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(WORDS), 0..14).prop_map(|words| words.concat())
}

fn readings() -> impl Strategy<Value = Reading> {
    let forms = prop::sample::select(vec!["", "<tool_call>", "[TOOL_CALLS]", "<|python_tag|>"]);
    let thoughts = prop::sample::select(vec![Thoughts::InText, Thoughts::Apart, Thoughts::Begun]);
    let calls = prop::sample::select(vec![Calls::Many, Calls::One]);
    (forms, thoughts, calls).prop_map(|(form, thoughts, calls)| Reading {
        calls,
        ..reading(form, thoughts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_split_gives_the_same_pieces(
        reading in readings(),
        text in answers(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let whole = read(&reading, &[&text]);
        let mut borders: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        borders.extend([0, text.len()]);
        borders.retain(|&at| text.is_char_boundary(at));
        borders.sort_unstable();
        let pieces: Vec<&str> = borders.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        prop_assert_eq!(&read(&reading, &pieces), &whole);
        let characters: Vec<String> = text.chars().map(String::from).collect();
        let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
        prop_assert_eq!(&read(&reading, &characters), &whole);
    }

    #[test]
    fn an_answer_without_thoughts_and_calls_is_its_text(
        reading in readings(),
        text in answers(),
    ) {
        let pieces = read(&reading, &[&text]);
        let plain = reading.thoughts != Thoughts::Begun && pieces.iter().all(|piece| matches!(piece, ReplyPiece::Text(_)));
        if plain && !text.trim_start().starts_with("<think>") {
            let given: Vec<ReplyPiece> = Some(text).filter(|text| !text.is_empty()).map(ReplyPiece::Text).into_iter().collect();
            prop_assert_eq!(pieces, given);
        }
    }
}
