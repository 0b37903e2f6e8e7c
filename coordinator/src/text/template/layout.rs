//! A chat laid out for an answer: the rendered prompt, with what the assistant has begun to say, and whether it ends in a thought.

use super::message::{Content, Message};
use super::{ChatTemplate, RenderOptions, Rendered, TemplateError, message};

/// The prompt of an answer.
#[derive(Clone, Debug)]
pub struct Layout {
    pub prompt: Rendered,
    /// The model thinks first: the template has opened a thought for it, or the answer that it continues has.
    pub thought_begun: bool,
}

impl ChatTemplate {
    /// Lays out a chat. If its last message is an answer without calls, the prompt ends with that message's text and no
    /// end-of-turn, so that the model goes on from there.
    pub fn lay_out(
        &self,
        messages: &[Message],
        mut options: RenderOptions,
    ) -> Result<Layout, TemplateError> {
        let (earlier, begun) = match messages.split_last() {
            Some((last, earlier)) if last.is_begun_answer() => (earlier, Some(last)),
            _ => (messages, None),
        };
        options.add_generation_prompt |= begun.is_some();
        let mut prompt = self.render(earlier, &options)?;
        let opens = self.reply_form().thoughts.opens;
        let thought_begun =
            options.add_generation_prompt && prompt.guarded.trim_end().ends_with(opens);
        Ok(match begun {
            None => Layout {
                prompt,
                thought_begun,
            },
            Some(begun) => {
                let tail = self.begun_text(earlier.len(), begun, thought_begun)?;
                prompt.guarded.push_str(&tail);
                let thought_begun = self.ends_in_thought(&tail).unwrap_or(thought_begun);
                Layout {
                    prompt,
                    thought_begun,
                }
            }
        })
    }

    /// Thoughts and text of an answer that has been begun, behind a prompt that may have opened a thought.
    fn begun_text(
        &self,
        index: usize,
        begun: &Message,
        thought_begun: bool,
    ) -> Result<String, TemplateError> {
        let marks = self.reply_form().thoughts;
        let thinks = thought_begun || self.source.contains(marks.closes);
        let thought = begun.reasoning_content.as_deref().unwrap_or_default();
        let thought = self.guarded_text(if thinks { thought } else { "" });
        let content = match &begun.content {
            None => String::new(),
            Some(Content::Text(text)) => self.guarded_text(text),
            Some(Content::Parts(parts)) => self.guarded_text(&message::join(index, parts)?),
        };
        let mut text = String::new();
        if !thought.is_empty() && !thought_begun {
            text.extend([marks.opens, "\n"]);
        }
        text.push_str(&thought);
        let open = !thought.is_empty() || thought_begun;
        if open && !content.is_empty() && !content.contains(marks.closes) {
            text.extend(["\n", marks.closes, "\n\n"]);
        }
        text.push_str(&content);
        Ok(text)
    }

    /// Whether a text ends between the marks of a thought; `None` if it has none.
    fn ends_in_thought(&self, text: &str) -> Option<bool> {
        let marks = self.reply_form().thoughts;
        match (text.rfind(marks.opens), text.rfind(marks.closes)) {
            (None, None) => None,
            (opened, closed) => Some(opened > closed),
        }
    }
}

impl Message {
    /// Whether the assistant goes on with this message if it is the last.
    pub fn is_begun_answer(&self) -> bool {
        self.role == "assistant" && self.tool_calls.as_ref().is_none_or(Vec::is_empty)
    }
}
