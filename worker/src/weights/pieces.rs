//! Who fetches which piece next: plain data, no clock, no socket, no bytes.
//!
//! Tensors are cut into pieces in order, and every source takes pieces as fast as it delivers them, so that a fast one does
//! more. Pieces of one tensor are written in order; what has arrived too early is held, and therefore how many pieces are under
//! way or held is bounded. A source that keeps all others waiting loses its piece to one that has nothing to do.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes of a piece: two frames, so that a connection is busy while the next piece is asked for, and little is lost with one.
pub(super) const PIECE_BYTES: u64 = 2 << 20;

/// Pieces that one source is asked for at once: enough to hide the latency between two, few enough that a slow one holds little.
const WINDOW: usize = 3;

/// Pieces under way or waiting to be written.
const MAX_PIECES: usize = 16;

/// Sources that may be at work on the same piece.
const MAX_HOLDERS: usize = 2;

/// Memory that a fetch may need for bytes that are not on the disk yet.
pub(super) const MAX_HELD_BYTES: u64 = 64 << 20;

const _: () = assert!(PIECE_BYTES * (MAX_PIECES * MAX_HOLDERS) as u64 <= MAX_HELD_BYTES);

/// Tensors written at once: small ones are a piece each.
const MAX_OPEN: usize = MAX_PIECES;

/// A source that has nothing to do takes over a piece that is under way for longer than this. A home network moves a piece in a
/// fraction of it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pieces that a source may lose to others before it counts as slow: it is then asked only for what no other has.
const MAX_LOST: u32 = 3;

/// Place of a source, in the order in which they are named.
pub(super) type SourceIndex = usize;

/// Place of a tensor, in the order in which they are fetched.
pub(super) type TensorIndex = usize;

/// Some bytes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Piece {
    pub tensor: TensorIndex,
    /// How often the tensor was begun before: what arrives for an earlier attempt is of no use.
    pub attempt: u32,
    pub offset: u64,
    pub n_bytes: u64,
}

/// What becomes of a piece that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is needed; those others need not go on with it.
    Needed { others: Vec<SourceIndex> },
    /// It came too late.
    Late,
}

/// The pieces of one fetch.
#[derive(Debug)]
pub(super) struct Pieces {
    tensors: Vec<Tensor>,
    sources: Vec<Source>,
    /// The first tensor that has not been opened.
    unopened: TensorIndex,
    /// Those that are being opened or are open, in order.
    open: Vec<TensorIndex>,
    n_done: usize,
}

#[derive(Debug)]
struct Tensor {
    n_bytes: u64,
    state: State,
    attempt: u32,
    from: From,
    /// Where the next piece is cut.
    cut: u64,
    /// Cut and not written, in order.
    pieces: VecDeque<Cut>,
}

/// Who may send a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// Whoever has it.
    Any,
    /// One source, since bytes of several proved wrong.
    One(SourceIndex),
    /// Nobody, until one is chosen.
    Nobody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Open,
    Done,
}

#[derive(Debug)]
struct Cut {
    offset: u64,
    n_bytes: u64,
    arrived: bool,
    /// Who is at work on it, and since when.
    holders: Vec<(SourceIndex, Instant)>,
}

#[derive(Debug)]
struct Source {
    /// Which tensors it has; none of them before it is known, and after it is given up.
    has: Vec<bool>,
    n_lost: u32,
    under_way: usize,
}

impl Tensor {
    fn needs_a_source(&self) -> bool {
        match self.state {
            State::Waiting => true,
            State::Open => self.cut < self.n_bytes || !self.pieces.iter().all(|p| p.arrived),
            State::Done => false,
        }
    }
}

impl Pieces {
    /// Tensors of these sizes, from sources of which nothing is known yet.
    pub fn new(n_bytes: impl IntoIterator<Item = u64>, n_sources: usize) -> Pieces {
        let tensor = |n_bytes| Tensor {
            n_bytes,
            state: State::Waiting,
            attempt: 0,
            from: From::Any,
            cut: 0,
            pieces: VecDeque::new(),
        };
        let tensors: Vec<_> = n_bytes.into_iter().map(tensor).collect();
        let source = || Source {
            has: vec![false; tensors.len()],
            n_lost: 0,
            under_way: 0,
        };
        Pieces {
            sources: std::iter::repeat_with(source).take(n_sources).collect(),
            tensors,
            unopened: 0,
            open: Vec::with_capacity(MAX_OPEN),
            n_done: 0,
        }
    }

    /// A source is there, with these tensors.
    pub fn join(&mut self, source: SourceIndex, has: Vec<bool>) {
        self.sources[source].has = has;
    }

    /// A source is not used any more. Its pieces are for others.
    pub fn leave(&mut self, source: SourceIndex) {
        self.sources[source].has.fill(false);
        self.sources[source].under_way = 0;
        for &tensor in &self.open {
            for piece in &mut self.tensors[tensor].pieces {
                piece.holders.retain(|(holder, _)| *holder != source);
            }
        }
    }

    /// A source does not have a tensor after all. Its pieces of it are for others.
    pub fn lacks(&mut self, source: SourceIndex, tensor: TensorIndex) {
        self.sources[source].has[tensor] = false;
        for piece in &mut self.tensors[tensor].pieces {
            let before = piece.holders.len();
            piece.holders.retain(|(holder, _)| *holder != source);
            self.sources[source].under_way -= before - piece.holders.len();
        }
    }

    /// The next tensor to open, if another may be.
    pub fn open_next(&mut self) -> Option<TensorIndex> {
        let next = self.unopened;
        if self.open.len() >= MAX_OPEN || next >= self.tensors.len() {
            return None;
        }
        self.open.push(next);
        self.unopened += 1;
        Some(next)
    }

    /// A tensor is open, and its bytes before `from` are there.
    pub fn opened(&mut self, tensor: TensorIndex, from: u64) {
        let tensor = &mut self.tensors[tensor];
        tensor.state = State::Open;
        tensor.cut = from;
    }

    /// The first `len` bytes of a tensor are on the disk.
    pub fn written(&mut self, tensor: TensorIndex, len: u64) {
        let pieces = &mut self.tensors[tensor].pieces;
        while pieces.front().is_some_and(|piece| piece.offset < len) {
            pieces.pop_front();
        }
    }

    /// A tensor needs nothing more.
    pub fn done(&mut self, tensor: TensorIndex) {
        self.tensors[tensor].state = State::Done;
        self.open.retain(|open| *open != tensor);
        self.n_done += 1;
    }

    /// All bytes of a tensor are thrown away. Its pieces under way come too late, and nobody sends it until it is restarted.
    pub fn forsake(&mut self, tensor: TensorIndex) {
        let tensor = &mut self.tensors[tensor];
        for (holder, _) in tensor.pieces.drain(..).flat_map(|piece| piece.holders) {
            self.sources[holder].under_way -= 1;
        }
        tensor.state = State::Waiting;
        tensor.attempt += 1;
        tensor.from = From::Nobody;
    }

    /// A tensor is being opened again, and comes from one source.
    pub fn restart(&mut self, tensor: TensorIndex, from: SourceIndex) {
        self.forsake(tensor);
        self.tensors[tensor].from = From::One(from);
    }

    /// How often a tensor was begun before.
    pub fn attempt(&self, tensor: TensorIndex) -> u32 {
        self.tensors[tensor].attempt
    }

    /// Whether every tensor is done.
    pub fn is_done(&self) -> bool {
        self.n_done == self.tensors.len()
    }

    /// A tensor that none of its sources can send any more.
    pub fn forsaken(&self) -> Option<TensorIndex> {
        (0..self.tensors.len()).find(|&index| {
            self.tensors[index].needs_a_source() && self.holders(index).next().is_none()
        })
    }

    /// Who could send a tensor, whole: those that have it.
    pub fn having(&self, tensor: TensorIndex) -> impl Iterator<Item = SourceIndex> {
        (0..self.sources.len()).filter(move |&source| self.sources[source].has[tensor])
    }

    /// Who may send a tensor now.
    fn holders(&self, tensor: TensorIndex) -> impl Iterator<Item = SourceIndex> {
        let from = self.tensors[tensor].from;
        self.having(tensor).filter(move |&source| match from {
            From::Any => true,
            From::One(one) => one == source,
            From::Nobody => false,
        })
    }

    /// What a source should fetch next; counts as under way from then on.
    pub fn next(&mut self, source: SourceIndex, now: Instant) -> Option<Piece> {
        if self.sources[source].under_way >= WINDOW {
            return None;
        }
        let open = self.open.iter().copied();
        let open: Vec<_> = open
            .filter(|&tensor| self.may_send(source, tensor))
            .collect();
        let (tensor, place) = (self.abandoned(&open))
            .or_else(|| self.fresh(&open))
            .or_else(|| self.overdue(&open, source, now))?;
        self.sources[source].under_way += 1;
        let piece = &mut self.tensors[tensor].pieces[place];
        piece.holders.push((source, now));
        let (offset, n_bytes) = (piece.offset, piece.n_bytes);
        Some(Piece {
            tensor,
            attempt: self.tensors[tensor].attempt,
            offset,
            n_bytes,
        })
    }

    fn may_send(&self, source: SourceIndex, tensor: TensorIndex) -> bool {
        let is_slow = |source: SourceIndex| self.sources[source].n_lost >= MAX_LOST;
        self.tensors[tensor].state == State::Open
            && self.holders(tensor).any(|holder| holder == source)
            && (!is_slow(source) || self.holders(tensor).all(is_slow))
    }

    /// A piece that nobody is at work on, because its source was given up.
    fn abandoned(&self, open: &[TensorIndex]) -> Option<(TensorIndex, usize)> {
        self.find(open, |piece| piece.holders.is_empty())
    }

    /// A piece that is cut now.
    fn fresh(&mut self, open: &[TensorIndex]) -> Option<(TensorIndex, usize)> {
        let pieces = |tensor: &TensorIndex| self.tensors[*tensor].pieces.len();
        let n_pieces: usize = self.open.iter().map(pieces).sum();
        if n_pieces >= MAX_PIECES {
            return None;
        }
        let is_uncut = |index: &&TensorIndex| {
            let tensor = &self.tensors[**index];
            tensor.cut < tensor.n_bytes
        };
        let index = *open.iter().find(is_uncut)?;
        let tensor = &mut self.tensors[index];
        let n_bytes = PIECE_BYTES.min(tensor.n_bytes - tensor.cut);
        tensor.pieces.push_back(Cut {
            offset: tensor.cut,
            n_bytes,
            arrived: false,
            holders: Vec::with_capacity(MAX_HOLDERS),
        });
        tensor.cut += n_bytes;
        Some((index, tensor.pieces.len() - 1))
    }

    /// A piece that another source is at work on for too long.
    fn overdue(
        &self,
        open: &[TensorIndex],
        source: SourceIndex,
        now: Instant,
    ) -> Option<(TensorIndex, usize)> {
        self.find(open, |piece| match piece.holders.as_slice() {
            [(holder, since)] => {
                *holder != source && now.saturating_duration_since(*since) > PATIENCE
            }
            _ => false,
        })
    }

    fn find(
        &self,
        open: &[TensorIndex],
        wanted: impl Fn(&Cut) -> bool,
    ) -> Option<(TensorIndex, usize)> {
        let place = |&index: &TensorIndex| {
            let mut pieces = self.tensors[index].pieces.iter();
            let place = pieces.position(|piece| !piece.arrived && wanted(piece))?;
            Some((index, place))
        };
        open.iter().find_map(place)
    }

    /// A piece has arrived.
    pub fn arrived(&mut self, source: SourceIndex, piece: &Piece) -> Arrival {
        let tensor = &mut self.tensors[piece.tensor];
        let is_it = |cut: &&mut Cut| cut.offset == piece.offset && !cut.arrived;
        let cut = match tensor.pieces.iter_mut().find(is_it) {
            Some(cut) if tensor.attempt == piece.attempt => cut,
            _ => return Arrival::Late,
        };
        let holders = std::mem::take(&mut cut.holders);
        let Some(at) = holders.iter().position(|(holder, _)| *holder == source) else {
            cut.holders = holders;
            return Arrival::Late;
        };
        cut.arrived = true;
        for (place, (holder, _)) in holders.iter().enumerate() {
            let holder = &mut self.sources[*holder];
            holder.under_way -= 1;
            holder.n_lost = match place == at {
                true => 0,
                // Only whoever had it first was too slow for it.
                false => holder.n_lost + u32::from(place < at),
            };
        }
        let others = holders.iter().map(|(holder, _)| *holder);
        Arrival::Needed {
            others: others.filter(|holder| *holder != source).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sources that have everything, and tensors of so many pieces, all open.
    fn pieces<const N: usize>(n_pieces: [u64; N]) -> Pieces {
        let mut pieces = Pieces::new(n_pieces.map(|n| n * PIECE_BYTES - 1), 2);
        for source in 0..2 {
            pieces.join(source, vec![true; N]);
        }
        while let Some(tensor) = pieces.open_next() {
            pieces.opened(tensor, 0);
        }
        pieces
    }

    fn all_of(pieces: &mut Pieces, source: SourceIndex, now: Instant) -> Vec<(TensorIndex, u64)> {
        let next = std::iter::from_fn(|| pieces.next(source, now));
        next.map(|piece| (piece.tensor, piece.offset / PIECE_BYTES))
            .collect()
    }

    #[test]
    fn sources_share_the_pieces_and_each_has_a_window() {
        let (mut pieces, now) = (pieces([2, 9]), Instant::now());
        assert_eq!(all_of(&mut pieces, 0, now), [(0, 0), (0, 1), (1, 0)]);
        assert_eq!(all_of(&mut pieces, 1, now), [(1, 1), (1, 2), (1, 3)]);
        let second = Piece {
            tensor: 0,
            attempt: 0,
            offset: PIECE_BYTES,
            n_bytes: PIECE_BYTES - 1,
        };
        assert_eq!(pieces.arrived(1, &second), Arrival::Late, "not its piece");
        let needed = Arrival::Needed { others: vec![] };
        assert_eq!(pieces.arrived(0, &second), needed);
        assert_eq!(pieces.arrived(0, &second), Arrival::Late, "twice");
        assert_eq!(
            all_of(&mut pieces, 0, now),
            [(1, 4)],
            "the fast one goes on"
        );
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (mut pieces, now) = (pieces([100]), Instant::now());
        let first = pieces.next(0, now).unwrap();
        let mut n_others = 0;
        while let Some(piece) = pieces.next(1, now) {
            assert_ne!(pieces.arrived(1, &piece), Arrival::Late);
            n_others += 1;
        }
        assert_eq!(n_others, MAX_PIECES - 1, "the first piece is missing");
        pieces.arrived(0, &first);
        pieces.written(0, MAX_PIECES as u64 * PIECE_BYTES);
        assert!(pieces.next(1, now).is_some(), "there is room again");
    }

    #[test]
    fn pieces_of_a_source_that_is_given_up_come_first() {
        let (mut pieces, now) = (pieces([9]), Instant::now());
        all_of(&mut pieces, 0, now);
        assert_eq!(pieces.next(1, now).unwrap().offset, 3 * PIECE_BYTES);
        pieces.leave(0);
        assert_eq!(pieces.next(0, now), None);
        assert_eq!(all_of(&mut pieces, 1, now), [(0, 0), (0, 1)]);
        assert_eq!(pieces.forsaken(), None);
        pieces.lacks(1, 0);
        assert_eq!(pieces.forsaken(), Some(0));
    }

    #[test]
    fn a_slow_source_loses_its_pieces_and_then_its_work() {
        let (mut pieces, start) = (pieces([3, 1]), Instant::now());
        pieces.lacks(1, 1);
        let slow: Vec<_> = std::iter::from_fn(|| pieces.next(0, start)).collect();
        assert_eq!(slow.len(), 3);
        assert_eq!(pieces.next(1, start + PATIENCE), None, "not yet");
        let late = start + 2 * PATIENCE;
        for piece in &slow {
            assert_eq!(pieces.next(1, late), Some(*piece));
            let others = vec![0];
            assert_eq!(pieces.arrived(1, piece), Arrival::Needed { others });
            assert_eq!(pieces.arrived(0, piece), Arrival::Late);
        }
        let only = pieces.next(0, late).map(|piece| piece.tensor);
        assert_eq!(only, Some(1), "what nobody else has is its work");
    }

    #[test]
    fn a_tensor_begun_again_comes_from_one_source() {
        let (mut pieces, now) = (pieces([2]), Instant::now());
        let first = pieces.next(0, now).unwrap();
        pieces.restart(0, 1);
        assert_eq!(pieces.next(1, now), None, "it is not open");
        pieces.opened(0, 0);
        assert_eq!(pieces.next(0, now), None);
        assert_eq!(pieces.arrived(0, &first), Arrival::Late);
        let again = pieces.next(1, now).unwrap();
        assert_eq!((again.offset, again.attempt), (0, 1));
        pieces.leave(1);
        assert_eq!(pieces.forsaken(), Some(0));
        assert_eq!(pieces.having(0).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_resumed_tensor_is_cut_from_where_it_stopped() {
        let mut pieces = Pieces::new([PIECE_BYTES], 1);
        pieces.join(0, vec![true]);
        let tensor = pieces.open_next().unwrap();
        assert_eq!(pieces.open_next(), None);
        pieces.opened(tensor, 100);
        let piece = pieces.next(0, Instant::now()).unwrap();
        assert_eq!((piece.offset, piece.n_bytes), (100, PIECE_BYTES - 100));
        pieces.arrived(0, &piece);
        pieces.written(tensor, PIECE_BYTES);
        assert!(!pieces.is_done());
        pieces.done(tensor);
        assert!(pieces.is_done());
    }
}
