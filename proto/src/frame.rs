//! Steps cut into frames of at most 1 MiB, and frames put together to steps.

use bytes::{Bytes, BytesMut};

use crate::{Fence, Step, WireError, limits, step::at_most, wire};

/// Cuts a step and its payload into frames, in the order in which they are sent.
pub fn frames(fence: Fence, step: &Step, payload: Bytes) -> Vec<wire::StepFrame> {
    let n_parts = payload.len().div_ceil(limits::MAX_FRAME_BYTES).max(1);
    (0..n_parts)
        .map(|part| {
            let from = part * limits::MAX_FRAME_BYTES;
            let to = (from + limits::MAX_FRAME_BYTES).min(payload.len());
            wire::StepFrame {
                fence: Some(fence.into()),
                step_id: step.id.0,
                part: part as u32,
                n_parts: n_parts as u32,
                header: (part == 0).then(|| step.to_wire()),
                payload: payload.slice(from..to),
            }
        })
        .collect()
}

/// A whole step as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrived {
    /// Under which plan it was sent.
    pub fence: Fence,
    /// The step.
    pub step: Step,
    /// Hidden states, f32 little-endian; empty into the first stage.
    pub payload: Bytes,
}

/// Puts the frames of one stream together. Holds at most one step.
#[derive(Debug)]
pub struct FrameAssembler {
    /// Bytes of payload that a token has on this edge.
    bytes_per_token: usize,
    /// Tokens that a step on this edge may have.
    max_tokens: usize,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    fence: Fence,
    step: Step,
    next_part: u32,
    n_parts: u32,
    want_bytes: usize,
    payload: BytesMut,
}

impl FrameAssembler {
    /// For an edge that carries `bytes_per_token` bytes of payload a token, `max_tokens` of them in a step.
    pub fn new(bytes_per_token: usize, max_tokens: usize) -> Self {
        FrameAssembler {
            bytes_per_token,
            max_tokens,
            partial: None,
        }
    }

    /// Takes the next frame; returns the step that it completes.
    pub fn push(&mut self, frame: wire::StepFrame) -> Result<Option<Arrived>, WireError> {
        at_most(
            "payload",
            frame.payload.len() as u64,
            limits::MAX_FRAME_BYTES as u64,
        )?;
        if frame.part == 0 {
            return self.first(frame);
        }
        let mut partial = self.partial.take().ok_or(WireError::OutOfOrder {
            step: frame.step_id,
            got: frame.part,
            want: 0,
        })?;
        if frame.step_id != partial.step.id.0 || frame.part != partial.next_part {
            return Err(WireError::OutOfOrder {
                step: frame.step_id,
                got: frame.part,
                want: partial.next_part,
            });
        }
        partial.next_part += 1;
        let room = partial.want_bytes - partial.payload.len();
        at_most("payload", frame.payload.len() as u64, room as u64)?;
        partial.payload.extend_from_slice(&frame.payload);
        self.advance(partial)
    }

    fn first(&mut self, frame: wire::StepFrame) -> Result<Option<Arrived>, WireError> {
        if let Some(partial) = self.partial.take() {
            return Err(WireError::OutOfOrder {
                step: frame.step_id,
                got: 0,
                want: partial.next_part,
            });
        }
        let fence = Fence::try_from(&frame.fence)?;
        let header = frame.header.ok_or(WireError::Missing("header"))?;
        let step = Step::from_wire(frame.step_id, header)?;
        let n_parts = frame.n_parts;
        at_most("n_parts", n_parts.into(), limits::MAX_PARTS.into())?;
        at_most("tokens", step.n_tokens() as u64, self.max_tokens as u64)?;
        let want_bytes = step.n_tokens() * self.bytes_per_token;
        at_most("payload", frame.payload.len() as u64, want_bytes as u64)?;
        // One part needs no copy: the payload is the slice of the message itself.
        if n_parts <= 1 {
            check_length(frame.payload.len(), want_bytes)?;
            return Ok(Some(Arrived {
                fence,
                step,
                payload: frame.payload,
            }));
        }
        let mut payload =
            BytesMut::with_capacity(want_bytes.min(n_parts as usize * limits::MAX_FRAME_BYTES));
        payload.extend_from_slice(&frame.payload);
        self.advance(Partial {
            fence,
            step,
            next_part: 1,
            n_parts,
            want_bytes,
            payload,
        })
    }

    fn advance(&mut self, partial: Partial) -> Result<Option<Arrived>, WireError> {
        if partial.next_part < partial.n_parts {
            self.partial = Some(partial);
            return Ok(None);
        }
        check_length(partial.payload.len(), partial.want_bytes)?;
        Ok(Some(Arrived {
            fence: partial.fence,
            step: partial.step,
            payload: partial.payload.freeze(),
        }))
    }
}

fn check_length(got: usize, want: usize) -> Result<(), WireError> {
    if got != want {
        return Err(WireError::Length {
            field: "payload",
            got,
            want,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterId, Epoch, PlanGen, Run, SeqId, StepId};

    const BYTES_PER_TOKEN: usize = 4 * 1536;

    fn fence() -> Fence {
        Fence {
            cluster: ClusterId([7; 16]),
            epoch: Epoch(1),
            plan_gen: PlanGen(2),
        }
    }

    fn step(n_tokens: usize) -> Step {
        Step {
            id: StepId(5),
            runs: vec![Run {
                seq: SeqId(1),
                pos: 0,
                tokens: vec![1; n_tokens],
                rollback: false,
                sampling: None,
            }],
            release: vec![],
            stage_us: vec![],
        }
    }

    fn payload(n_tokens: usize) -> Bytes {
        (0..n_tokens * BYTES_PER_TOKEN)
            .map(|i| (i % 251) as u8)
            .collect()
    }

    #[test]
    fn long_steps_are_cut_and_joined() {
        for n_tokens in [1, 170, 171, 512] {
            let sent = frames(fence(), &step(n_tokens), payload(n_tokens));
            assert!(
                sent.iter()
                    .all(|f| f.payload.len() <= limits::MAX_FRAME_BYTES)
            );
            let mut assembler = FrameAssembler::new(BYTES_PER_TOKEN, 512);
            let mut arrived = Vec::new();
            for frame in sent {
                arrived.extend(assembler.push(frame).unwrap());
            }
            assert_eq!(arrived.len(), 1);
            assert_eq!(arrived[0].step, step(n_tokens));
            assert_eq!(arrived[0].payload, payload(n_tokens));
        }
    }

    #[test]
    fn wrong_frames_are_refused_and_forgotten() {
        let sent = frames(fence(), &step(512), payload(512));
        let mut assembler = FrameAssembler::new(BYTES_PER_TOKEN, 512);
        assert!(assembler.push(sent[1].clone()).is_err(), "no first part");
        assembler.push(sent[0].clone()).unwrap();
        assert!(
            assembler.push(sent[2].clone()).is_err(),
            "a part is missing"
        );
        assembler.push(sent[0].clone()).unwrap();
        assert!(assembler.push(sent[0].clone()).is_err(), "first part twice");
        let mut short = sent[0].clone();
        short.n_parts = 1;
        assert!(
            assembler.push(short).is_err(),
            "shorter than its tokens say"
        );
        let mut foreign = FrameAssembler::new(8, 512);
        assert!(foreign.push(sent[0].clone()).is_err(), "another width");
        let mut narrow = FrameAssembler::new(BYTES_PER_TOKEN, 511);
        assert!(
            narrow.push(sent[0].clone()).is_err(),
            "more tokens than agreed"
        );
    }
}
