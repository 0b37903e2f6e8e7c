//! The ledger of steps that the ring has not returned yet.

use std::collections::VecDeque;

use potluck_proto::{SeqId, Step, StepId};

/// Steps under way, oldest first, and the number of the next one. Belongs to one plan.
#[derive(Debug, Default)]
pub(super) struct Flights {
    next: u64,
    flights: VecDeque<Flight>,
}

/// One step under way.
#[derive(Debug)]
pub(super) struct Flight {
    /// The step.
    pub id: StepId,
    /// What must come back.
    pub runs: Vec<FlightRun>,
    /// Whether it carries decode rows.
    pub decodes: bool,
}

/// One run under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlightRun {
    /// The sequence.
    pub seq: SeqId,
    /// Positions that the ring holds for it afterwards.
    pub end: u32,
    /// Whether a token was asked for.
    pub samples: bool,
}

impl Flights {
    /// Number of the step that leaves next.
    pub fn next_id(&self) -> StepId {
        StepId(self.next)
    }

    /// Steps under way.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Steps under way that carry decode rows.
    pub fn n_decoding(&self) -> usize {
        self.flights.iter().filter(|flight| flight.decodes).count()
    }

    /// Notes that a step leaves.
    pub fn depart(&mut self, step: &Step, decodes: bool) {
        self.next += 1;
        let runs = step.runs.iter().map(|run| FlightRun {
            seq: run.seq,
            end: run.pos + run.tokens.len() as u32,
            samples: run.sampling.is_some(),
        });
        self.flights.push_back(Flight {
            id: step.id,
            runs: runs.collect(),
            decodes,
        });
    }

    /// Takes out a step that came back; `None` where it is not under way, as for a duplicate.
    pub fn land(&mut self, id: StepId) -> Option<Flight> {
        let at = self.flights.iter().position(|flight| flight.id == id)?;
        self.flights.remove(at)
    }

    /// Whether a run of `seq` is under way in step `id`.
    pub fn carries(&self, id: StepId, seq: SeqId) -> bool {
        self.flights
            .iter()
            .any(|flight| flight.id == id && flight.runs.iter().any(|run| run.seq == seq))
    }
}
