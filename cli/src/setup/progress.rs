//! Progress on standard error: bars on a terminal, nothing elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use potluck_coordinator::cluster::ClusterEvent;

/// All bars of a command.
#[derive(Clone)]
pub struct Bars {
    multi: MultiProgress,
}

impl Bars {
    /// Bars if standard error is a terminal.
    pub fn new() -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Bars {
            multi: MultiProgress::with_draw_target(target),
        }
    }

    /// A bar that counts bytes.
    pub fn bytes(&self, what: &str) -> ProgressBar {
        let bar = self.multi.add(ProgressBar::new(0));
        bar.set_style(style(
            "{msg:30} {bar:30} {bytes:>11} / {total_bytes:11} {binary_bytes_per_sec:>13} {eta}",
        ));
        bar.set_message(what.to_owned());
        bar
    }

    /// A line that says what is being waited for.
    pub fn spinner(&self, what: &str) -> ProgressBar {
        let bar = self.multi.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {msg}"));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        bar
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file, all of them shown in its tests.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Shows how a cluster comes about.
pub struct ClusterBars {
    bars: Bars,
    waiting: ProgressBar,
    workers: HashMap<String, ProgressBar>,
}

impl ClusterBars {
    pub fn new(bars: &Bars) -> Self {
        ClusterBars {
            bars: bars.clone(),
            waiting: bars.spinner("looking for workers"),
            workers: HashMap::new(),
        }
    }

    /// Shows an event.
    pub fn show(&mut self, event: &ClusterEvent) {
        match event {
            ClusterEvent::WorkerFound { name, address } => {
                self.waiting
                    .set_message(format!("found {name} at {address}, looking for more"));
            }
            ClusterEvent::WorkerLost { name, why } => {
                self.waiting.set_message(format!("{name} was lost: {why}"))
            }
            ClusterEvent::Planned(plan) => {
                self.waiting.set_message(format!(
                    "loading {} layers in {} stages",
                    n_layers(plan),
                    plan.stages.len()
                ));
            }
            ClusterEvent::Fetching {
                name,
                done_bytes,
                total_bytes,
            } => {
                self.bar(name, "fetches", *done_bytes, *total_bytes);
            }
            ClusterEvent::Loading {
                name,
                done_bytes,
                total_bytes,
            } => {
                self.bar(name, "loads", *done_bytes, *total_bytes);
            }
            ClusterEvent::Loaded { name, .. } => {
                if let Some(bar) = self.workers.remove(name) {
                    bar.finish_and_clear();
                }
            }
            ClusterEvent::WeightsDamaged {
                worker,
                source,
                tensor,
            } => {
                self.waiting.set_message(format!(
                    "{source} sent {worker} wrong bytes of {tensor}, fetching them from others"
                ));
            }
            ClusterEvent::Down { why } => self.waiting.set_message(why.clone()),
            ClusterEvent::Ready { .. } => self.clear(),
        }
    }

    fn bar(&mut self, name: &str, what: &str, done_bytes: u64, total_bytes: u64) {
        let bar = self
            .workers
            .entry(name.to_owned())
            .or_insert_with(|| self.bars.bytes(""));
        bar.set_message(format!("{name} {what} its layers"));
        bar.set_length(total_bytes);
        bar.set_position(done_bytes);
    }

    fn clear(&mut self) {
        self.waiting.finish_and_clear();
        self.workers
            .drain()
            .for_each(|(_, bar)| bar.finish_and_clear());
    }
}

impl Drop for ClusterBars {
    fn drop(&mut self) {
        self.clear();
    }
}

fn n_layers(plan: &potluck_coordinator::planner::Plan) -> usize {
    plan.stages.iter().map(|stage| stage.layers.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_understood() {
        for template in [
            "{msg:30} {bar:30} {bytes:>11} / {total_bytes:11} {binary_bytes_per_sec:>13} {eta}",
            "{spinner} {msg}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
