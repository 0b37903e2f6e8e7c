//! SentencePiece's pair merging: the characters of a text are merged into the most probable tokens first.
//!
//! Pure table work on text that holds no special tokens. Characters that no token covers become their bytes, or the unknown
//! token where the vocabulary lacks those too.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::vocabulary::{METASPACE, TokenId, Vocabulary};

/// A SentencePiece tokenizer without its special tokens.
pub struct Spm {
    byte_tokens: [Option<TokenId>; 256],
    unknown: Option<TokenId>,
}

impl Spm {
    pub fn new(vocabulary: &Vocabulary, unknown: Option<TokenId>) -> Spm {
        let byte_tokens = std::array::from_fn(|byte| {
            let spelled = vocabulary.find(format!("<0x{byte:02X}>").as_bytes());
            spelled.or_else(|| vocabulary.find_text(&[byte as u8]))
        });
        Spm {
            byte_tokens,
            unknown,
        }
    }

    /// Appends the tokens of `text`; `space_before` puts the space in front that such models expect at the start of a text.
    pub fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        space_before: bool,
        out: &mut Vec<TokenId>,
    ) {
        let prefix = if space_before { METASPACE } else { "" };
        let spelled = format!("{prefix}{}", text.replace(' ', METASPACE));
        let mut merging = Merging::new(vocabulary, &spelled);
        merging.run();
        for piece in merging.pieces() {
            self.push_piece(vocabulary, piece, out);
        }
    }

    fn push_piece(&self, vocabulary: &Vocabulary, piece: &[u8], out: &mut Vec<TokenId>) {
        match vocabulary.find_text(piece) {
            Some(id) => out.push(id),
            None => out.extend(
                piece
                    .iter()
                    .filter_map(|&byte| self.byte_tokens[byte as usize].or(self.unknown)),
            ),
        }
    }
}

/// A stretch of the text; length 0 once it was merged into the one before it.
struct Piece {
    start: u32,
    length: u32,
    previous: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// Two neighbours whose texts together are a token.
struct Candidate {
    score: f32,
    left: u32,
    right: u32,
    length: u32,
}

/// The best score first, then from left to right.
impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

struct Merging<'a> {
    vocabulary: &'a Vocabulary,
    text: &'a [u8],
    pieces: Vec<Piece>,
    queue: BinaryHeap<Candidate>,
}

impl<'a> Merging<'a> {
    /// Starts with one piece for each character.
    fn new(vocabulary: &'a Vocabulary, text: &'a str) -> Merging<'a> {
        let mut pieces: Vec<Piece> = text
            .char_indices()
            .zip(0u32..)
            .map(|((start, character), at)| Piece {
                start: start as u32, // Fits: the text's length limit is far below 2^32.
                length: character.len_utf8() as u32,
                previous: at.checked_sub(1).unwrap_or(NONE),
                next: at + 1,
            })
            .collect();
        if let Some(last) = pieces.last_mut() {
            last.next = NONE;
        }
        let mut merging = Merging {
            vocabulary,
            text: text.as_bytes(),
            pieces,
            queue: BinaryHeap::new(),
        };
        let pairs = 1..merging.pieces.len() as u32;
        merging.queue = pairs
            .filter_map(|right| merging.candidate(right - 1, right))
            .collect();
        merging
    }

    fn run(&mut self) {
        while let Some(candidate) = self.queue.pop() {
            let (left, right) = (candidate.left as usize, candidate.right as usize);
            let (left_length, right_length) = (self.pieces[left].length, self.pieces[right].length);
            if left_length == 0
                || right_length == 0
                || left_length + right_length != candidate.length
            {
                continue; // One of the two was merged with something else meanwhile.
            }
            let after = self.pieces[right].next;
            self.pieces[left].length = candidate.length;
            self.pieces[left].next = after;
            self.pieces[right].length = 0;
            if after != NONE {
                self.pieces[after as usize].previous = candidate.left;
            }
            let before = self.candidate(self.pieces[left].previous, candidate.left);
            let behind = self.candidate(candidate.left, after);
            self.queue.extend(before.into_iter().chain(behind));
        }
    }

    fn candidate(&self, left: u32, right: u32) -> Option<Candidate> {
        if left == NONE || right == NONE {
            return None;
        }
        let (start, end) = (&self.pieces[left as usize], &self.pieces[right as usize]);
        let length = start.length + end.length;
        if length as usize > self.vocabulary.longest_text() {
            return None;
        }
        let text = self
            .text
            .get(start.start as usize..(start.start + length) as usize)?;
        let score = self.vocabulary.score(self.vocabulary.find_text(text)?);
        Some(Candidate {
            score,
            left,
            right,
            length,
        })
    }

    fn pieces(&self) -> impl Iterator<Item = &'a [u8]> {
        let text = self.text;
        let alive = self.pieces.iter().filter(|piece| piece.length > 0);
        alive.filter_map(move |piece| {
            text.get(piece.start as usize..(piece.start + piece.length) as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::{Spelling, TokenColumns};
    use super::*;

    /// Ids: 0 unknown, 1 control, 2 byte 0xC3, then the pieces.
    fn vocabulary() -> Vocabulary {
        let texts = [
            "<unk>", "</s>", "<0xC3>", "▁", "a", "b", "ab", "▁ab", "bb", "</", "s>", "<", "/", "s",
            ">",
        ];
        let types = [2, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
        let scores = [
            0., 0., 0., -9., -9., -9., -2., -1., -1.5, -3., -3., -9., -9., -9., -9.,
        ];
        let columns = TokenColumns {
            types: Some(&types),
            scores: Some(&scores),
        };
        Vocabulary::new(
            texts.iter().map(|text| text.as_bytes()),
            columns,
            Spelling::Metaspace,
        )
        .unwrap()
    }

    fn encode(text: &str, space_before: bool) -> Vec<TokenId> {
        let vocabulary = vocabulary();
        let mut out = Vec::new();
        Spm::new(&vocabulary, Some(0)).encode(&vocabulary, text, space_before, &mut out);
        out
    }

    #[test]
    fn the_best_score_wins_and_ties_go_left() {
        assert_eq!(encode("ab", true), [7]);
        assert_eq!(encode("ab", false), [6]);
        assert_eq!(encode("abb", false), [4, 8], "bb scores higher than ab");
        assert_eq!(encode("bbb", false), [8, 5]);
        assert_eq!(encode("a b", false), [4, 3, 5]);
        assert_eq!(encode("", false), [] as [u32; 0]);
    }

    #[test]
    fn uncovered_characters_become_bytes_or_unknown() {
        assert_eq!(
            encode("é", false),
            [2, 0],
            "0xC3 has a token, 0xA9 has none"
        );
    }

    #[test]
    fn text_never_merges_into_a_control_token() {
        assert_eq!(encode("</s>", false), [9, 10]);
    }

    #[test]
    fn a_mebibyte_of_one_letter_is_not_quadratic() {
        let started = std::time::Instant::now();
        assert_eq!(encode(&"b".repeat(1 << 20), false).len(), 1 << 19);
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }
}
