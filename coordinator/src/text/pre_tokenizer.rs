//! Cuts text into the words that byte-level BPE merges within.
//!
//! Every model family was trained with its own pattern, and a wrong one silently changes what the model reads, so a name
//! that is not listed here is refused. The published patterns end in `\s+(?!\S)|\s+`: a run of spaces gives its last one to
//! the word that follows. Here they are written without the look-ahead and the last space is handed back afterwards: the
//! same words, but the regex engine needs no backtracking and stays linear in the text, whatever the text is.

use regex::Regex;

use super::error::TokenizerError;

/// One family of words, with the rules that come with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Default,
    Gpt2,
    DigitsApart,
    Llama3,
    Qwen2,
    Qwen35,
}

/// The value of `tokenizer.ggml.pre` and the family it means.
const NAMES: &[(&str, Family)] = &[
    ("default", Family::Default),
    ("gpt-2", Family::Gpt2),
    ("mpt", Family::Gpt2),
    ("smollm", Family::DigitsApart),
    ("starcoder", Family::DigitsApart),
    ("refact", Family::DigitsApart),
    ("command-r", Family::DigitsApart),
    ("llama-bpe", Family::Llama3),
    ("llama3", Family::Llama3),
    ("llama-v3", Family::Llama3),
    ("qwen2", Family::Qwen2),
    ("deepseek-r1-qwen", Family::Qwen2),
    ("qwen35", Family::Qwen35),
];

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = r"'(?i:[stmd]|re|ve|ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str = r"'(?i:[stmd]|re|ve|ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN35: &str = r"'(?i:[stmd]|re|ve|ll)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";

impl Family {
    pub fn from_name(name: &str) -> Result<Family, TokenizerError> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found
            .map(|&(_, family)| family)
            .ok_or_else(|| TokenizerError::UnknownPreTokenizer {
                pre: name.to_owned(),
                known: NAMES
                    .iter()
                    .map(|(known, _)| *known)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// A word that is a token as a whole becomes that token, without looking at merges.
    pub fn ignores_merges(self) -> bool {
        self == Family::Llama3
    }

    /// Whether a text begins with BOS when the file does not say.
    pub fn adds_bos(self) -> bool {
        self == Family::Llama3
    }

    /// The patterns, applied one after the other: each cuts the pieces that the one before left.
    fn steps(self) -> &'static [(&'static str, Trim)] {
        match self {
            Family::Default => &[
                (r"[\p{P}\$\+<=>\^~\|]+", Trim::Never),
                (GPT2, Trim::Always),
                (r"\p{N}+", Trim::Never),
                (r"[0-9][0-9][0-9]", Trim::Never),
            ],
            Family::Gpt2 => &[(GPT2, Trim::Always)],
            Family::DigitsApart => &[(r"\p{N}", Trim::Never), (GPT2, Trim::Always)],
            Family::Llama3 => &[(LLAMA3, Trim::UnlessLineEnd)],
            Family::Qwen2 => &[(QWEN2, Trim::UnlessLineEnd)],
            Family::Qwen35 => &[(QWEN35, Trim::UnlessLineEnd)],
        }
    }
}

/// When a match of nothing but white space gives its last character back to what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trim {
    Never,
    Always,
    /// Runs that end in a line end are matched by an alternative without the look-ahead.
    UnlessLineEnd,
}

/// The compiled patterns of one family.
pub struct PreTokenizer {
    steps: Vec<(Regex, Trim)>,
}

impl PreTokenizer {
    pub fn new(family: Family) -> Result<PreTokenizer, TokenizerError> {
        let compile = |&(pattern, trim): &(&str, Trim)| {
            Regex::new(pattern)
                .map(|regex| (regex, trim))
                .map_err(|error| TokenizerError::Pattern(Box::new(error)))
        };
        let steps = family
            .steps()
            .iter()
            .map(compile)
            .collect::<Result<_, _>>()?;
        Ok(PreTokenizer { steps })
    }

    /// The words of the text in order; together they are the text.
    pub fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pieces = if text.is_empty() {
            Vec::new()
        } else {
            vec![text]
        };
        for (regex, trim) in &self.steps {
            let mut finer = Vec::with_capacity(pieces.len() * 2);
            for piece in pieces {
                cut(piece, regex, *trim, &mut finer);
            }
            pieces = finer;
        }
        pieces
    }
}

/// Cuts one piece into its matches and what lies between them.
fn cut<'t>(piece: &'t str, regex: &Regex, trim: Trim, out: &mut Vec<&'t str>) {
    let mut at = 0;
    while let Some(found) = regex.find_at(piece, at) {
        let end = kept_end(piece, found.as_str(), found.end(), trim).unwrap_or(found.end());
        out.extend(
            piece
                .get(at..found.start())
                .filter(|between| !between.is_empty()),
        );
        out.extend(piece.get(found.start()..end));
        at = end;
    }
    out.extend(piece.get(at..).filter(|rest| !rest.is_empty()));
}

/// Where a white space match ends once it has given its last character to the word that follows, if it does.
fn kept_end(piece: &str, found: &str, end: usize, trim: Trim) -> Option<usize> {
    let last = found.chars().next_back()?;
    let followed = piece
        .get(end..)?
        .chars()
        .next()
        .is_some_and(|next| !next.is_whitespace());
    let line_end = matches!(last, '\r' | '\n') && trim == Trim::UnlessLineEnd;
    let gives = trim != Trim::Never && followed && !line_end && found.len() > last.len_utf8();
    (gives && found.chars().all(char::is_whitespace)).then(|| end - last.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let pre = PreTokenizer::new(Family::from_name(name).unwrap()).unwrap();
        let words = pre.words(text);
        assert_eq!(words.concat(), text, "nothing may be lost");
        words.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn known_cuts() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("gpt-2", "Hello  world", &["Hello", " ", " world"]),
            ("gpt-2", "a\n\nb", &["a", "\n", "\n", "b"]),
            ("gpt-2", "it's 2024!", &["it", "'s", " 2024", "!"]),
            ("gpt-2", "it'S", &["it", "'", "S"]),
            ("gpt-2", "a  ", &["a", "  "]),
            (
                "smollm",
                "a 2024  b",
                &["a", " ", "2", "0", "2", "4", " ", " b"],
            ),
            ("smollm", "a   7", &["a", "   ", "7"]),
            (
                "llama-bpe",
                "12345 I'LL\n\n  go",
                &["123", "45", " I", "'LL", "\n\n", " ", " go"],
            ),
            ("llama-bpe", "x  \n  y", &["x", "  \n", " ", " y"]),
            ("llama-bpe", "\ta", &["\ta"]),
            ("qwen2", "12 (ok)!\n", &["1", "2", " (", "ok", ")!\n"]),
            ("qwen2", "a\u{a0}\u{a0}b", &["a", "\u{a0}", "\u{a0}b"]),
            ("default", "x=1234 y.", &["x", "=", "123", "4", " y", "."]),
            ("default", "", &[]),
        ];
        for (name, text, expected) in cases {
            assert_eq!(&words(name, text), expected, "{name}: {text:?}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = Family::from_name("tekken").unwrap_err().to_string();
        assert!(
            message.contains("'tekken'") && message.contains("llama-bpe, llama3"),
            "{message}"
        );
    }

    #[test]
    fn long_runs_are_cut_in_linear_time() {
        for unit in [" ", "\n", "a", "1", "!", " \n", "👩‍👩‍👧", "'", "\u{a0}x"] {
            let text = unit.repeat((1 << 20) / unit.len());
            for name in ["gpt-2", "llama-bpe", "qwen2", "default"] {
                let started = std::time::Instant::now();
                words(name, &text);
                words(name, &format!("{text}x"));
                assert!(
                    started.elapsed().as_secs() < 20,
                    "{name} on {unit:?} took {:?}",
                    started.elapsed()
                );
            }
        }
    }
}
