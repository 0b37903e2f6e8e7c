//! GPT-2's table between bytes and printable characters, in which byte-level vocabularies are spelled.
//!
//! Printable Latin-1 bytes stand for themselves; the other 68 are numbered upwards from U+0100 in byte order.

/// The character that spells a byte.
pub fn to_char(byte: u8) -> char {
    TO_CHAR[byte as usize]
}

/// The bytes that a spelling stands for. A character outside the table stands for its own UTF-8 bytes: such spellings occur
/// for markers that a file lists as normal tokens.
pub fn to_bytes(word: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    for character in word.chars() {
        match to_byte(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// The byte that a character spells.
fn to_byte(character: char) -> Option<u8> {
    let code = character as u32;
    match u8::try_from(code) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => FROM_SHIFTED.get((code - FIRST_SHIFTED) as usize).copied(),
    }
}

/// Where the bytes that have no printable character of their own are numbered from.
const FIRST_SHIFTED: u32 = 0x100;

const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

const N_SHIFTED: usize = 68;

const FROM_SHIFTED: [u8; N_SHIFTED] = {
    let mut table = [0; N_SHIFTED];
    let (mut next, mut byte) = (0, 0);
    while byte < 256 {
        if !is_printable(byte as u8) {
            table[next] = byte as u8;
            next += 1;
        }
        byte += 1;
    }
    assert!(next == N_SHIFTED);
    table
};

const TO_CHAR: [char; 256] = {
    let mut table = ['\0'; 256];
    let (mut byte, mut shifted) = (0, 0);
    while byte < 256 {
        table[byte] = if is_printable(byte as u8) {
            byte as u8 as char
        } else {
            shifted += 1;
            match char::from_u32(FIRST_SHIFTED + shifted - 1) {
                Some(character) => character,
                None => panic!("the table is below the surrogates"),
            }
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_spellings() {
        for (byte, character) in [
            (b'a', 'a'),
            (b' ', 'Ġ'),
            (b'\n', 'Ċ'),
            (0, 'Ā'),
            (0x7f, 'ġ'),
            (0xad, 'Ń'),
            (0xff, 'ÿ'),
        ] {
            assert_eq!(to_char(byte), character);
        }
    }

    #[test]
    fn every_byte_survives_the_round_trip() {
        for byte in 0..=255 {
            assert_eq!(to_byte(to_char(byte)), Some(byte));
        }
        assert_eq!(
            (to_byte(' '), to_byte('\u{144}'), to_byte('｜')),
            (None, None, None)
        );
    }

    #[test]
    fn foreign_characters_stand_for_themselves() {
        assert_eq!(to_bytes("<｜end▁x｜>"), "<｜end▁x｜>".as_bytes());
    }
}
