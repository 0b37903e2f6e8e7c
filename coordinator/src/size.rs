//! A number of bytes as people read it: `1.2 GiB`, `340 MiB`. Used by every sentence that names memory or disk.

use std::fmt;

const UNITS: [(u64, &str); 4] = [
    (1 << 40, "TiB"),
    (1 << 30, "GiB"),
    (1 << 20, "MiB"),
    (1 << 10, "KiB"),
];

/// Below this many units one decimal is shown: 9.5 GiB and 340 MiB are both exact enough to act on.
const SHORT: f64 = 100.0;

/// Displays a number of bytes with a binary unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| self.0 >= *unit) else {
            return f.pad(&format!("{} B", self.0));
        };
        let value = self.0 as f64 / unit as f64;
        let decimals = usize::from(value < SHORT);
        f.pad(&format!("{value:.decimals$} {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (98_362_432, "93.8 MiB"),
            (1_117_320_768, "1.0 GiB"),
            (500 << 20, "500 MiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>9}|", Size(2 << 30)), "  2.0 GiB|");
    }
}
