//! Speeds without their noise: two measurements of the same machine differ by a few percent, and a plan should not.

/// Speeds within this ratio of the slowest of them count as equal. Repeated measurements on a busy PC spread about this far.
const SAME_SPEED_RATIO: f64 = 1.2;

/// Range of speeds that a plan believes, in units a second: from a floppy disk to more than any machine has.
const SANE_SPEEDS: (f64, f64) = (1e5, 1e16);

/// A speed that can be divided by, whatever a worker says about itself. What is no number counts as the slowest.
pub(super) fn sane(speed: f64) -> f64 {
    let (slowest, fastest) = SANE_SPEEDS;
    match speed.is_nan() {
        true => slowest,
        false => speed.clamp(slowest, fastest),
    }
}

/// Each speed replaced by the median of those that count as equal to it.
pub(super) fn evened(speeds: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut speeds: Vec<f64> = speeds.map(sane).collect();
    let mut order: Vec<usize> = (0..speeds.len()).collect();
    order.sort_by(|&a, &b| speeds[a].total_cmp(&speeds[b]));
    let mut rest = order.as_slice();
    while let Some(&slowest) = rest.first() {
        let limit = speeds[slowest] * SAME_SPEED_RATIO;
        let n_equal = rest.partition_point(|&i| speeds[i] <= limit);
        let (group, next) = rest.split_at(n_equal);
        let median = speeds[group[(n_equal - 1) / 2]];
        group.iter().for_each(|&i| speeds[i] = median);
        rest = next;
    }
    speeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_speeds_become_one_and_far_ones_stay() {
        let evened: Vec<f64> = evened([10.0e9, 30.0e9, 11.0e9, 5.0e9, 11.5e9].into_iter());
        assert_eq!(evened, [11.0e9, 30.0e9, 11.0e9, 5.0e9, 11.0e9]);
    }

    #[test]
    fn nonsense_is_the_slowest_speed() {
        for nonsense in [f64::NAN, 0.0, -1.0, f64::NEG_INFINITY] {
            assert_eq!(sane(nonsense), 1e5, "{nonsense}");
        }
        assert_eq!(sane(f64::INFINITY), 1e16);
        assert_eq!(evened([f64::NAN].into_iter()), [1e5]);
    }
}
