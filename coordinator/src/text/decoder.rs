//! Turns the bytes of tokens, as they come, into text that may be sent.
//!
//! A token may end in the middle of a character: the decoder holds those bytes back until the rest comes. What it has given
//! out is never taken back, and all of it together is what `String::from_utf8_lossy` makes of all bytes together.

/// Decodes one answer, token by token.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// The beginning of a character, at most 3 bytes.
    held: Vec<u8>,
}

impl StreamDecoder {
    pub fn new() -> StreamDecoder {
        StreamDecoder::default()
    }

    /// Takes the next bytes and gives the text that is complete. Bytes that no continuation can make valid become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let keep = incomplete_tail(&self.held);
        let tail = self.held.split_off(self.held.len() - keep);
        let ready = std::mem::replace(&mut self.held, tail);
        lossy(ready)
    }

    /// Ends the answer: a character that never became complete is one U+FFFD.
    pub fn finish(&mut self) -> String {
        lossy(std::mem::take(&mut self.held))
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// How many bytes at the end are the beginning of a character that more bytes could complete.
fn incomplete_tail(bytes: &[u8]) -> usize {
    let Some(last) = bytes.utf8_chunks().last() else {
        return 0;
    };
    let invalid = last.invalid();
    // A chunk's invalid part is either hopeless or the longest valid beginning of a character; it ends the input.
    match std::str::from_utf8(invalid) {
        Err(error) if error.error_len().is_none() => invalid.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(parts: &[&[u8]]) -> Vec<String> {
        let mut decoder = StreamDecoder::new();
        let mut out: Vec<String> = parts.iter().map(|part| decoder.push(part)).collect();
        out.push(decoder.finish());
        out
    }

    #[test]
    fn holds_back_what_is_not_complete() {
        assert_eq!(stream(&[b"a\xe2", b"\x82", b"\xacb"]), ["a", "", "€b", ""]);
        assert_eq!(stream(&[b"\xf0\x9f\x98"]), ["", "\u{fffd}"]);
        assert_eq!(stream(&[b"\xf0\x9f", b"x"]), ["", "\u{fffd}x", ""]);
        assert_eq!(
            stream(&[b"\xff", b"\xc0\x80"]),
            ["\u{fffd}", "\u{fffd}\u{fffd}", ""]
        );
        assert_eq!(stream(&[b"", b"ok"]), ["", "ok", ""]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_text(
            pieces in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..4),
                any::<char>().prop_map(|character| character.to_string().into_bytes()),
            ], 0..20),
            step in 1usize..5,
        ) {
            let bytes = pieces.concat();
            let parts: Vec<&[u8]> = bytes.chunks(step).collect();
            prop_assert_eq!(stream(&parts).concat(), String::from_utf8_lossy(&bytes));
        }
    }
}
