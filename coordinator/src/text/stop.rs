//! Finds stop strings in a stream of text, wherever the stream is cut.
//!
//! Text that may be the beginning of a stop string is held back; everything else goes out at once. The first stop string to be
//! complete ends the answer, and of several that are complete at the same place the longest counts: so the result does not
//! depend on how the text was cut into pieces.

/// Why stop strings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    #[error("{count} stop strings are too many; at most {max} are accepted")]
    TooMany { count: usize, max: usize },
    #[error("stop string {index} is empty; leave it out")]
    Empty { index: usize },
    #[error("stop string {index} has {bytes} bytes; at most {max} are accepted")]
    TooLong {
        index: usize,
        bytes: usize,
        max: usize,
    },
}

/// Other services take 4 to 16 stop strings; every one costs a step for every byte of the answer.
pub const MAX_STOPS: usize = 64;

/// Held-back text is at most this long, so a stop string cannot delay the stream for long.
pub const MAX_STOP_BYTES: usize = 1024;

/// What one piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Emitted {
    /// Text that may be sent.
    pub text: String,
    /// Index of the stop string that ended the answer with this piece.
    pub stop: Option<usize>,
}

/// Searches one answer for its stop strings.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    held: String,
    stopped: bool,
}

impl StopMatcher {
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<StopMatcher, StopError> {
        if stops.len() > MAX_STOPS {
            return Err(StopError::TooMany {
                count: stops.len(),
                max: MAX_STOPS,
            });
        }
        let stops = stops
            .iter()
            .enumerate()
            .map(|(index, stop)| Stop::new(index, stop.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(StopMatcher {
            stops,
            held: String::new(),
            stopped: false,
        })
    }

    /// Takes the next piece of text. After a stop string was found, everything further is swallowed.
    pub fn push(&mut self, text: &str) -> Emitted {
        if self.stopped {
            return Emitted::default();
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            if let Some((stop, length)) = self.advance(byte) {
                self.stopped = true;
                self.held.truncate(before + at + 1 - length);
                return Emitted {
                    text: std::mem::take(&mut self.held),
                    stop: Some(stop),
                };
            }
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| stop.matched)
            .max()
            .unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - keep);
        Emitted {
            text: std::mem::replace(&mut self.held, kept),
            stop: None,
        }
    }

    /// Ends the answer: gives what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Steps every stop string by one byte; index and length of the longest that is now complete.
    fn advance(&mut self, byte: u8) -> Option<(usize, usize)> {
        let mut found: Option<(usize, usize)> = None;
        for (index, stop) in self.stops.iter_mut().enumerate() {
            let length = stop.bytes.len();
            if stop.advance(byte) && found.is_none_or(|(_, longest)| length > longest) {
                found = Some((index, length));
            }
        }
        found
    }
}

/// One stop string with its matching state (Knuth, Morris and Pratt, 1977).
#[derive(Debug, Clone)]
struct Stop {
    bytes: Vec<u8>,
    /// For each prefix, the length of its longest proper prefix that is also its suffix.
    borders: Vec<usize>,
    /// How many bytes of the stop string the text ends with.
    matched: usize,
}

impl Stop {
    fn new(index: usize, text: &str) -> Result<Stop, StopError> {
        if text.is_empty() {
            return Err(StopError::Empty { index });
        }
        if text.len() > MAX_STOP_BYTES {
            return Err(StopError::TooLong {
                index,
                bytes: text.len(),
                max: MAX_STOP_BYTES,
            });
        }
        let mut stop = Stop {
            bytes: text.as_bytes().to_vec(),
            borders: vec![0],
            matched: 0,
        };
        for &byte in text.as_bytes().get(1..).unwrap_or_default() {
            stop.advance(byte);
            stop.borders.push(stop.matched);
        }
        stop.matched = 0;
        Ok(stop)
    }

    /// Takes one byte; true once the whole string has been seen.
    fn advance(&mut self, byte: u8) -> bool {
        while self.bytes.get(self.matched) != Some(&byte) {
            if self.matched == 0 {
                return false;
            }
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += 1;
        self.matched == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All text that came out, and the stop string that ended it.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut text = String::new();
        for piece in pieces {
            let emitted = matcher.push(piece);
            text.push_str(&emitted.text);
            if emitted.stop.is_some() {
                assert_eq!(
                    (matcher.push("more"), matcher.finish()),
                    (Emitted::default(), String::new())
                );
                return (text, emitted.stop);
            }
        }
        text.push_str(&matcher.finish());
        (text, None)
    }

    #[test]
    fn stops_across_borders() {
        assert_eq!(run(&["END"], &["a E", "N", "D b"]), ("a ".into(), Some(0)));
        assert_eq!(run(&["END"], &["a E", "N"]), ("a EN".into(), None));
        assert_eq!(run(&["aab"], &["aa", "ab"]), ("a".into(), Some(0)));
        assert_eq!(run(&["abcd", "bc"], &["abcd"]), ("a".into(), Some(1)));
        assert_eq!(run(&["c", "bc"], &["abc"]), ("a".into(), Some(1)));
        assert_eq!(run(&["é!"], &["é", "é!"]), ("é".into(), Some(0)));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), None));
    }

    #[test]
    fn text_that_cannot_begin_a_stop_goes_out_at_once() {
        let mut matcher = StopMatcher::new(&["\n\n"]).unwrap();
        assert_eq!(matcher.push("line").text, "line");
        assert_eq!(matcher.push(" one\n").text, " one");
        assert_eq!(matcher.push("two").text, "\ntwo");
    }

    #[test]
    fn refuses_what_it_cannot_bound() {
        assert_eq!(
            StopMatcher::new(&vec!["x"; 65]).unwrap_err(),
            StopError::TooMany { count: 65, max: 64 }
        );
        assert_eq!(
            StopMatcher::new(&["a", ""]).unwrap_err(),
            StopError::Empty { index: 1 }
        );
        let long = "x".repeat(1025);
        assert!(matches!(
            StopMatcher::new(&[long]),
            Err(StopError::TooLong {
                index: 0,
                bytes: 1025,
                ..
            })
        ));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_result(
            text in "[abé]{0,30}",
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut borders: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            borders.extend([0, text.len()]);
            borders.retain(|&at| text.is_char_boundary(at));
            borders.sort_unstable();
            let pieces: Vec<&str> = borders.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let whole = run(&stops, &[&text]);
            prop_assert_eq!(&run(&stops, &pieces), &whole);
            let ends = stops.iter().flat_map(|stop| text.match_indices(stop).map(|(at, found)| at + found.len()));
            prop_assert_eq!(whole.1.is_some(), ends.min().is_some());
        }
    }
}
