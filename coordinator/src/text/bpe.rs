//! Byte-level byte pair encoding: the bytes of a word are merged pair by pair, the most frequent pair of the training first.
//!
//! Pure table work on words that `pre_tokenizer` has cut. Short words scan for the best pair; long ones keep the pairs in a
//! heap, so that a megabyte of one letter takes n log n steps.

use foldhash::fast::RandomState;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::byte_map;
use super::error::TokenizerError;
use super::pre_tokenizer::{Family, PreTokenizer};
use super::vocabulary::{MAX_TOKENS, TokenId, Vocabulary};

/// The largest tables in use have 280 147 merges.
pub const MAX_MERGES: usize = 1 << 21;

/// Up to this many bytes a scan of all pairs beats the heap.
const SHORT_WORD: usize = 24;

/// A token, or a merge result that is no token: those get numbers from the vocabulary's size upwards.
type Symbol = u32;

/// Marks a symbol that was merged into the one before it.
const MERGED_AWAY: Symbol = Symbol::MAX;

/// What a pair of symbols becomes, and how early: the lowest rank is merged first.
#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    into: Symbol,
}

/// A byte-level BPE tokenizer without its special tokens.
pub struct Bpe {
    pre: PreTokenizer,
    ignores_merges: bool,
    n_tokens: u32,
    merges: HashMap<(Symbol, Symbol), Merge, RandomState>,
    byte_symbols: [Symbol; 256],
}

impl Bpe {
    /// `merges` are lines of two spellings with a space between them, the most frequent first.
    pub fn new<'a>(
        vocabulary: &Vocabulary,
        merges: impl Iterator<Item = &'a [u8]>,
        family: Family,
    ) -> Result<Bpe, TokenizerError> {
        let mut symbols = Symbols {
            vocabulary,
            extra: HashMap::default(),
        };
        let mut table = HashMap::with_hasher(RandomState::default());
        for (index, line) in merges.enumerate() {
            if index >= MAX_MERGES {
                return Err(TokenizerError::TooManyMerges { max: MAX_MERGES });
            }
            let (left, right) = split_merge(line).ok_or(TokenizerError::BadMerge { index })?;
            let pair = (symbols.of(left), symbols.of(right));
            let into = symbols.of(&[left, right].concat());
            let rank = index as u32; // Fits: MAX_MERGES is below 2^32.
            table.entry(pair).or_insert(Merge { rank, into });
        }
        let byte_symbols = std::array::from_fn(|byte| {
            symbols.of(byte_map::to_char(byte as u8)
                .encode_utf8(&mut [0; 4])
                .as_bytes())
        });
        Ok(Bpe {
            pre: PreTokenizer::new(family)?,
            ignores_merges: family.ignores_merges(),
            n_tokens: vocabulary.len() as u32, // Fits: MAX_TOKENS is below 2^32.
            merges: table,
            byte_symbols,
        })
    }

    /// Appends the tokens of a text that holds no special tokens.
    pub fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<TokenId>) {
        let mut scratch = Scratch::default();
        for word in self.pre.words(text) {
            if self.ignores_merges
                && let Some(id) = scratch.whole_word(vocabulary, word)
            {
                out.push(id);
                continue;
            }
            self.encode_word(word.as_bytes(), &mut scratch, out);
        }
    }

    fn encode_word(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<TokenId>) {
        let parts = &mut scratch.parts;
        parts.clear();
        parts.extend(word.iter().enumerate().map(|(at, &byte)| Part {
            symbol: self.byte_symbol(byte),
            start: at as u32,
        }));
        if word.len() <= SHORT_WORD {
            self.merge_short(parts);
        } else {
            self.merge_long(parts);
        }
        let ends = parts
            .iter()
            .skip(1)
            .map(|part| part.start as usize)
            .chain([word.len()]);
        for (part, end) in parts.iter().zip(ends) {
            self.push_symbol(
                part.symbol,
                word.get(part.start as usize..end).unwrap_or_default(),
                out,
            );
        }
    }

    /// A merge result that is no token falls back to its bytes. A byte that has no token either is left out, as in the
    /// tokenizers these vocabularies come from: they never saw that byte.
    fn push_symbol(&self, symbol: Symbol, bytes: &[u8], out: &mut Vec<TokenId>) {
        if symbol < self.n_tokens {
            out.push(symbol);
            return;
        }
        out.extend(
            bytes
                .iter()
                .map(|&byte| self.byte_symbol(byte))
                .filter(|&symbol| symbol < self.n_tokens),
        );
    }

    fn byte_symbol(&self, byte: u8) -> Symbol {
        self.byte_symbols[byte as usize]
    }

    fn merge_of(&self, left: Symbol, right: Symbol) -> Option<Merge> {
        self.merges.get(&(left, right)).copied()
    }

    fn merge_short(&self, parts: &mut Vec<Part>) {
        let mut merges: Vec<Option<Merge>> = parts
            .windows(2)
            .map(|pair| self.merge_of(pair[0].symbol, pair[1].symbol))
            .collect();
        loop {
            let ranked = merges
                .iter()
                .enumerate()
                .filter_map(|(at, merge)| merge.map(|merge| (merge.rank, at, merge.into)));
            let Some((_, at, into)) = ranked.min() else {
                return;
            };
            parts[at].symbol = into;
            parts.remove(at + 1);
            merges.remove(at);
            if at > 0 {
                merges[at - 1] = self.merge_of(parts[at - 1].symbol, into);
            }
            if at < merges.len() {
                merges[at] = self.merge_of(into, parts[at + 1].symbol);
            }
        }
    }

    fn merge_long(&self, parts: &mut Vec<Part>) {
        let mut chain = Chain::new(parts);
        let pairs = 1..parts.len();
        let mut heap: BinaryHeap<_> = pairs
            .filter_map(|right| self.candidate(parts, right - 1, right))
            .collect();
        while let Some(Reverse(candidate)) = heap.pop() {
            let left = candidate.left as usize;
            let Some(right) = chain.next(left) else {
                continue;
            };
            if (parts[left].symbol, parts[right].symbol) != candidate.pair {
                continue; // One of the two was merged with something else meanwhile.
            }
            parts[left].symbol = candidate.into;
            parts[right].symbol = MERGED_AWAY;
            chain.remove(right);
            let before = chain
                .previous(left)
                .and_then(|before| self.candidate(parts, before, left));
            let after = chain
                .next(left)
                .and_then(|after| self.candidate(parts, left, after));
            heap.extend(before.into_iter().chain(after));
        }
        parts.retain(|part| part.symbol != MERGED_AWAY);
    }

    fn candidate(&self, parts: &[Part], left: usize, right: usize) -> Option<Reverse<Candidate>> {
        let pair = (parts[left].symbol, parts[right].symbol);
        let merge = self.merge_of(pair.0, pair.1)?;
        Some(Reverse(Candidate {
            rank: merge.rank,
            left: left as u32,
            pair,
            into: merge.into,
        }))
    }
}

/// The two sides of a merge line. The first side has at least one character, which may itself be a space.
fn split_merge(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = 1 + line.get(1..)?.iter().position(|&byte| byte == b' ')?;
    let (left, right) = (line.get(..space)?, line.get(space + 1..)?);
    (!right.is_empty()).then_some((left, right))
}

/// Numbers spellings: tokens by their id, anything else from the vocabulary's size upwards.
struct Symbols<'v> {
    vocabulary: &'v Vocabulary,
    extra: HashMap<Vec<u8>, Symbol, RandomState>,
}

impl Symbols<'_> {
    fn of(&mut self, text: &[u8]) -> Symbol {
        if let Some(id) = self.vocabulary.find_text(text) {
            return id;
        }
        let next = (self.vocabulary.len() + self.extra.len()) as Symbol;
        *self.extra.entry(text.to_vec()).or_insert(next)
    }
}

// At most three new symbols a merge, and one for each byte.
const _: () = assert!(MAX_TOKENS + 3 * MAX_MERGES + 256 < MERGED_AWAY as usize);

/// A stretch of the word: its symbol and its first byte.
#[derive(Clone, Copy)]
struct Part {
    symbol: Symbol,
    start: u32,
}

/// A pair that could be merged, ordered by rank and then from left to right.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    pair: (Symbol, Symbol),
    into: Symbol,
}

/// Buffers that one call of `encode` uses again for every word.
#[derive(Default)]
struct Scratch {
    parts: Vec<Part>,
    spelling: String,
}

impl Scratch {
    fn whole_word(&mut self, vocabulary: &Vocabulary, word: &str) -> Option<TokenId> {
        if word.len() > vocabulary.longest_text() {
            return None;
        }
        self.spelling.clear();
        self.spelling.extend(word.bytes().map(byte_map::to_char));
        vocabulary.find_text(self.spelling.as_bytes())
    }
}

/// Neighbours of the parts that are left.
struct Chain {
    next: Vec<u32>,
    previous: Vec<u32>,
}

impl Chain {
    const END: u32 = u32::MAX;

    fn new(parts: &[Part]) -> Chain {
        let n = parts.len() as u32; // Fits: the text's length limit is below 2^32.
        let mut next: Vec<u32> = (1..=n).collect();
        if let Some(last) = next.last_mut() {
            *last = Chain::END;
        }
        let previous = std::iter::once(Chain::END)
            .chain(0..n.saturating_sub(1))
            .collect();
        Chain { next, previous }
    }

    fn next(&self, at: usize) -> Option<usize> {
        Some(self.next[at])
            .filter(|&next| next != Chain::END)
            .map(|next| next as usize)
    }

    fn previous(&self, at: usize) -> Option<usize> {
        Some(self.previous[at])
            .filter(|&previous| previous != Chain::END)
            .map(|previous| previous as usize)
    }

    fn remove(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        if before != Chain::END {
            self.next[before as usize] = after;
        }
        if after != Chain::END {
            self.previous[after as usize] = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::{Spelling, TokenColumns};
    use super::*;
    use proptest::prelude::*;

    /// `ab` and `abb` are tokens; `ba` is a merge whose result is none, and `c` is a byte without a token.
    fn tiny() -> (Vocabulary, Bpe) {
        let texts = ["a", "b", "ab", "abb", "aa", "baba"].map(str::as_bytes);
        let columns = TokenColumns::default();
        let vocabulary = Vocabulary::new(texts.into_iter(), columns, Spelling::ByteLevel).unwrap();
        let merges = ["a b", "ab b", "b a", "ba ba", "a a"].map(str::as_bytes);
        let bpe = Bpe::new(&vocabulary, merges.into_iter(), Family::Gpt2).unwrap();
        (vocabulary, bpe)
    }

    #[test]
    fn merges_by_rank_from_left_to_right() {
        let (vocabulary, bpe) = tiny();
        let cases: [(&str, &[TokenId]); 6] = [
            ("ab", &[2]),
            ("abb", &[3]),
            ("aab", &[0, 2]),
            ("aaa", &[4, 0]),
            ("ba", &[1, 0]),
            ("acb", &[0, 1]),
        ];
        for (text, expected) in cases {
            let mut out = Vec::new();
            bpe.encode(&vocabulary, text, &mut out);
            assert_eq!(out, expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn short_and_long_words_merge_alike(word in "[ab]{0,40}") {
            let (_, bpe) = tiny();
            let symbols = word.bytes().zip(0..);
            let mut short: Vec<Part> =
                symbols.map(|(byte, start)| Part { symbol: bpe.byte_symbol(byte), start }).collect();
            let mut long = short.clone();
            bpe.merge_short(&mut short);
            bpe.merge_long(&mut long);
            let pairs = |parts: &[Part]| parts.iter().map(|part| (part.symbol, part.start)).collect::<Vec<_>>();
            prop_assert_eq!(pairs(&short), pairs(&long));
        }
    }
}
