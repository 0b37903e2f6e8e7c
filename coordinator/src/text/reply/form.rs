//! The marks by which models set thoughts and calls apart from the text of an answer. Which ones a model writes is found out
//! from its template (`template/probe_reply.rs`).

use std::sync::Arc;

/// What a model puts around its thoughts.
#[derive(Debug, PartialEq, Eq)]
pub struct ThoughtMarks {
    pub opens: &'static str,
    pub closes: &'static str,
}

/// What a model puts around its calls of tools. Between the marks is JSON: a call, or a list of calls.
#[derive(Debug, PartialEq, Eq)]
pub struct CallMarks {
    pub opens: &'static str,
    /// `None` where the end of the JSON is the end of the call.
    pub closes: Option<&'static str>,
    /// The name may come in front of the JSON.
    pub named: bool,
}

/// The first is what is assumed where a template shows none.
pub const THOUGHT_MARKS: &[ThoughtMarks] = &[
    ThoughtMarks {
        opens: "<think>",
        closes: "</think>",
    },
    ThoughtMarks {
        opens: "[THINK]",
        closes: "[/THINK]",
    },
    ThoughtMarks {
        opens: "<|START_THINKING|>",
        closes: "<|END_THINKING|>",
    },
    ThoughtMarks {
        opens: "<seed:think>",
        closes: "</seed:think>",
    },
];

pub const CALL_MARKS: &[CallMarks] = &[
    // Hermes, Qwen.
    CallMarks {
        opens: "<tool_call>",
        closes: Some("</tool_call>"),
        named: false,
    },
    // Mistral.
    CallMarks {
        opens: "[TOOL_CALLS]",
        closes: None,
        named: true,
    },
    // Llama 3, which as often writes no mark at all.
    CallMarks {
        opens: "<|python_tag|>",
        closes: None,
        named: false,
    },
    // Granite.
    CallMarks {
        opens: "<|tool_call|>",
        closes: None,
        named: false,
    },
    // Nemotron.
    CallMarks {
        opens: "<TOOLCALL>",
        closes: Some("</TOOLCALL>"),
        named: false,
    },
];

/// Fences, into which small models of any kind put the JSON of a call. Much else is written into them, so what is inside counts
/// like bare JSON.
pub const FENCES: &[CallMarks] = &[
    CallMarks {
        opens: "```json",
        closes: Some("```"),
        named: false,
    },
    CallMarks {
        opens: "```",
        closes: Some("```"),
        named: false,
    },
];

/// Mistral's newer models write `[TOOL_CALLS]name[ARGS]{...}`, with or without `[CALL_ID]` and an id behind the name.
pub const ARGS: &str = "[ARGS]";
pub const CALL_ID: &str = "[CALL_ID]";

/// How a model writes its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyForm {
    pub thoughts: &'static ThoughtMarks,
    /// `None` if only bare JSON, or JSON in a fence, at the beginning of an answer can be a call.
    pub calls: Option<&'static CallMarks>,
    pub ids: CallIds,
}

/// The ids of calls that a template accepts when they come back with the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallIds {
    #[default]
    Any,
    /// Nine letters and digits, as Mistral's templates demand.
    Nine,
}

impl CallMarks {
    /// Whether nothing but calls is written behind these marks.
    pub fn are_certain(&self) -> bool {
        !FENCES.contains(self)
    }
}

impl Default for ReplyForm {
    fn default() -> ReplyForm {
        ReplyForm {
            thoughts: &THOUGHT_MARKS[0],
            calls: None,
            ids: CallIds::Any,
        }
    }
}

/// How one answer is read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub form: ReplyForm,
    pub thoughts: Thoughts,
    /// Names of the tools that the model was offered. Without any, nothing is taken for a call.
    pub tools: Arc<[String]>,
    pub calls: Calls,
}

/// What becomes of a model's thoughts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thoughts {
    /// They are text like everything else.
    #[default]
    InText,
    /// They are told apart.
    Apart,
    /// They are told apart, and the prompt ends inside of one.
    Begun,
}

/// How many calls of an answer are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    #[default]
    Many,
    /// The first; what the model writes after it is left out.
    One,
}

impl Reading {
    /// The marks that may be tokens without text and have to be seen all the same.
    pub fn marks(&self) -> Vec<&'static str> {
        let ReplyForm {
            thoughts, calls, ..
        } = self.form;
        let mut marks = vec![thoughts.opens, thoughts.closes];
        if let Some(calls) = calls.filter(|_| !self.tools.is_empty()) {
            marks.push(calls.opens);
            marks.extend(calls.closes);
            if calls.named {
                marks.extend([ARGS, CALL_ID]);
            }
        }
        marks
    }
}
