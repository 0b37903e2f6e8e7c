//! Words of another machine, as they may be shown to a user or written to a log: they cannot steer a terminal.

/// Characters of a sentence: the longest that this program says of itself have half as many.
const MAX_CHARS: usize = 500;

/// What another machine said, on one line and of bounded length.
pub fn shown(words: &str) -> String {
    let plain = words.chars().filter(|c| !c.is_control());
    plain.take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cannot_steer_a_terminal() {
        assert_eq!(shown("no\u{1b}[2J\r\n\u{9b}31m way, é"), "no[2J31m way, é");
        assert_eq!(shown(&"x".repeat(9000)).len(), MAX_CHARS);
    }
}
