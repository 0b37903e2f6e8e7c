//! A streamed message: server-sent events with names, in an order that clients rely on. Each block begins, grows and ends before
//! the next begins.

use std::mem::{Discriminant, discriminant};

use axum::response::sse::{Event, KeepAlive};
use serde::Serialize;

use super::error::ApiError;
use super::messages_error::ErrorBody;
use super::messages_reply::{Block, Ending, Message, MessageHead, Usage};
use super::reply_stream::Shape;
use super::sse;
use crate::answer::{Choices, Delta, Done, Timings};
use crate::text::{ReplyParser, ReplyPiece};

/// The one answer of a request, as a message.
pub(super) struct MessageStream {
    head: MessageHead,
    blocks: Blocks,
}

/// The blocks of a message as the text comes.
struct Blocks {
    parser: ReplyParser,
    /// Of the block that is open, or would be next.
    index: u32,
    open: Option<Discriminant<Block>>,
    calls: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StreamEvent<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: u32, content_block: Block },
    ContentBlockDelta { index: u32, delta: BlockDelta },
    ContentBlockStop { index: u32 },
    MessageDelta { delta: Ending<'a>, usage: Usage },
    MessageStop,
    Ping,
}

/// What a block grows by.
#[derive(Serialize)]
#[serde(tag = "type")]
enum BlockDelta {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: String },
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: String },
}

impl MessageStream {
    pub(super) fn new(choices: &Choices, head: MessageHead) -> MessageStream {
        MessageStream {
            blocks: Blocks::new(choices.parser()),
            head,
        }
    }
}

impl Shape for MessageStream {
    fn opening(&mut self) -> Vec<Event> {
        let message = self.head.opening();
        vec![StreamEvent::MessageStart { message }.named()]
    }

    fn piece(&mut self, _index: u32, delta: &Delta) -> Vec<Event> {
        let events = self.blocks.push(&delta.text);
        events.iter().map(StreamEvent::named).collect()
    }

    fn closing(&mut self, _index: u32, done: &Done) -> Vec<Event> {
        let mut events = self.blocks.finish();
        events.push(StreamEvent::MessageDelta {
            delta: self.head.ending(done.finish, self.blocks.calls),
            usage: (&done.timings).into(),
        });
        events.iter().map(StreamEvent::named).collect()
    }

    fn end(&mut self, _timings: &Timings) -> Vec<Event> {
        vec![StreamEvent::MessageStop.named()]
    }

    fn error(&self, error: &ApiError) -> Event {
        sse::named("error", &ErrorBody::from(error))
    }

    fn ping(&self) -> KeepAlive {
        KeepAlive::new().event(StreamEvent::Ping.named())
    }
}

impl Blocks {
    fn new(parser: ReplyParser) -> Blocks {
        Blocks {
            parser,
            index: 0,
            open: None,
            calls: false,
        }
    }

    fn push<'a>(&mut self, text: &str) -> Vec<StreamEvent<'a>> {
        let pieces = self.parser.push(text);
        self.say(pieces)
    }

    /// What was held back until the end, and the end of the last block.
    fn finish<'a>(&mut self) -> Vec<StreamEvent<'a>> {
        let pieces = self.parser.finish();
        let mut events = self.say(pieces);
        events.extend(self.close());
        events
    }

    fn say<'a>(&mut self, pieces: Vec<ReplyPiece>) -> Vec<StreamEvent<'a>> {
        let mut events = Vec::new();
        for piece in pieces {
            let block = Block::of(piece, self.parser.call_ids());
            let (is_call, kind) = (block.is_call(), discriminant(&block));
            let (begun, delta) = begun_and_delta(block);
            if is_call || self.open != Some(kind) {
                events.extend(self.close());
                events.push(StreamEvent::ContentBlockStart {
                    index: self.index,
                    content_block: begun,
                });
                self.open = Some(kind);
            }
            events.push(StreamEvent::ContentBlockDelta {
                index: self.index,
                delta,
            });
            self.calls |= is_call;
        }
        events
    }

    fn close<'a>(&mut self) -> Option<StreamEvent<'a>> {
        self.open.take()?;
        let index = self.index;
        self.index += 1;
        Some(StreamEvent::ContentBlockStop { index })
    }
}

/// A block as it begins, and what makes it whole.
fn begun_and_delta(block: Block) -> (Block, BlockDelta) {
    match block {
        Block::Thinking {
            thinking,
            signature,
        } => {
            let begun = Block::Thinking {
                thinking: String::new(),
                signature,
            };
            (begun, BlockDelta::Thinking { thinking })
        }
        Block::Text { text } => {
            let begun = Block::Text {
                text: String::new(),
            };
            (begun, BlockDelta::Text { text })
        }
        Block::ToolUse { id, name, input } => {
            let begun = Block::ToolUse {
                id,
                name,
                input: "{}".to_owned(),
            };
            let partial_json = input;
            (begun, BlockDelta::InputJson { partial_json })
        }
    }
}

impl StreamEvent<'_> {
    /// The event with its type for a name.
    fn named(&self) -> Event {
        let name = match self {
            StreamEvent::MessageStart { .. } => "message_start",
            StreamEvent::ContentBlockStart { .. } => "content_block_start",
            StreamEvent::ContentBlockDelta { .. } => "content_block_delta",
            StreamEvent::ContentBlockStop { .. } => "content_block_stop",
            StreamEvent::MessageDelta { .. } => "message_delta",
            StreamEvent::MessageStop => "message_stop",
            StreamEvent::Ping => "ping",
        };
        sse::named(name, self)
    }
}
