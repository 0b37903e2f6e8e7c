//! What a worker says of itself, as far as it is believed. It has proven that it belongs to the cluster, not that it tells the
//! truth, and its words go to terminals, to the planner and to other workers.

use potluck_link::invite::is_address;
use potluck_link::words::shown;
use potluck_proto::{PROTOCOL, wire};

use super::doorman::printable;

/// More memory than any machine of a home has, by far: 1 PiB.
const MAX_MEMORY_BYTES: u64 = 1 << 50;

/// Units a second that no machine of a home reads or computes.
const MAX_SPEED: f64 = 1e16;

/// Addresses of one worker that others are told of.
const MAX_ADDRESSES: usize = 8;

/// What it says, fit for use; or why nothing that it says can be used.
pub(super) fn believed(mut info: wire::NodeInfo) -> Result<wire::NodeInfo, String> {
    if info.protocol.abs_diff(PROTOCOL) > 1 {
        return Err(format!(
            "it speaks protocol {}, this coordinator {PROTOCOL}; update the older one",
            info.protocol
        ));
    }
    let memory = [info.memory_budget_bytes, info.memory_total_bytes];
    if let Some(bytes) = memory.into_iter().find(|bytes| *bytes > MAX_MEMORY_BYTES) {
        return Err(format!(
            "it says that it has {bytes} bytes of memory, which no machine has"
        ));
    }
    let speed = info.speed.unwrap_or_default();
    let speeds = [speed.weight_bytes_per_second, speed.macs_per_second];
    let is_speed = |speed: &f64| *speed > 0.0 && *speed <= MAX_SPEED;
    if let Some(speed) = speeds.iter().find(|speed| !is_speed(speed)) {
        return Err(format!(
            "it says that its speed is {speed} a second, which is the speed of no machine"
        ));
    }
    info.name = printable(&info.name);
    for words in [&mut info.version, &mut info.platform, &mut info.isa] {
        *words = shown(words);
    }
    info.addresses.retain(|address| is_address(address));
    info.addresses.truncate(MAX_ADDRESSES);
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> wire::NodeInfo {
        wire::NodeInfo {
            protocol: PROTOCOL,
            name: "ann".into(),
            memory_budget_bytes: 8 << 30,
            memory_total_bytes: 16 << 30,
            speed: Some(wire::Speed {
                weight_bytes_per_second: 2e10,
                macs_per_second: 1e12,
            }),
            addresses: vec!["10.0.0.7:7461".into()],
            ..Default::default()
        }
    }

    #[test]
    fn machines_that_cannot_exist_are_not_believed() {
        assert_eq!(believed(info()), Ok(info()));
        type Lie = fn(&mut wire::NodeInfo);
        fn speed(info: &mut wire::NodeInfo, macs_per_second: f64) {
            info.speed.as_mut().unwrap().macs_per_second = macs_per_second;
        }
        let lies: [(&str, Lie); 9] = [
            ("bytes", |info| info.memory_budget_bytes = 1 << 63),
            ("bytes", |info| info.memory_total_bytes = u64::MAX),
            ("NaN", |info| speed(info, f64::NAN)),
            ("inf", |info| speed(info, f64::INFINITY)),
            ("1000000", |info| speed(info, 1e30)),
            ("speed is 0", |info| speed(info, 0.0)),
            ("-5", |info| speed(info, -5.0)),
            ("speed is 0", |info| info.speed = None),
            ("protocol", |info| info.protocol = 99),
        ];
        for (word, lie) in lies {
            let mut info = info();
            lie(&mut info);
            let why = believed(info).expect_err(word);
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn words_are_made_fit_for_a_terminal_and_addresses_for_other_workers() {
        let mut wild = info();
        wild.name = "\u{1b}[2Jann\n".into();
        wild.version = "1\u{7}.0".into();
        wild.addresses = vec!["nowhere".into(), "a b:1".into(), String::new()];
        wild.addresses
            .extend((1..100).map(|port| format!("10.0.0.7:{port}")));
        let tame = believed(wild).unwrap();
        assert_eq!(
            (tame.name.as_str(), tame.version.as_str()),
            ("[2Jann", "1.0")
        );
        assert_eq!(tame.addresses.len(), MAX_ADDRESSES);
        assert!(tame.addresses.iter().all(|address| is_address(address)));
    }
}
