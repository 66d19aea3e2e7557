//! How many slots there are to be. Pure.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Starts so long ago count as recent: about what a class takes to come in, twice.
const RECENT: Duration = Duration::from_secs(600);

/// No rate needs more of them.
const REMEMBERED: usize = 1000;

/// The starts of late that could have taken a slot, whether or not there was one.
#[derive(Debug, Default)]
pub struct Demand(VecDeque<Instant>);

impl Demand {
    pub fn note(&mut self, now: Instant) {
        self.0.push_back(now);
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }

    fn recent(&mut self, now: Instant) -> u32 {
        while self.0.front().is_some_and(|start| now.duration_since(*start) > RECENT) {
            self.0.pop_front();
        }
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// The minimum and one for each recent start, up to the maximum.
    pub fn target(&mut self, minimum: u32, maximum: u32, now: Instant) -> u32 {
        minimum.saturating_add(self.recent(now)).min(maximum)
    }
}

/// Whether one more slot fits into the budget, when the present ones use so much. How much it
/// will take is what the largest one takes; before the first one nobody knows, and it may come.
pub fn fits(budget: u64, used: &[u64]) -> bool {
    let largest = used.iter().copied().max().unwrap_or(0);
    used.iter().sum::<u64>().saturating_add(largest) <= budget
}

/// How long nothing is made after one that took so much processor time, if making them is to
/// take `thousandths` of a processor.
pub fn pause(cpu: Duration, took: Duration, thousandths: u64) -> Duration {
    let share = cpu.saturating_mul(1000) / u32::try_from(thousandths.max(1)).unwrap_or(u32::MAX);
    share.saturating_sub(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_follows_the_starts_between_its_bounds() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut demand = Demand::default();
        assert_eq!(demand.target(2, 5, at(0)), 2);
        for second in 0..2 {
            demand.note(at(second));
        }
        assert_eq!(demand.target(2, 5, at(10)), 4);
        for second in 10..20 {
            demand.note(at(second));
        }
        assert_eq!(demand.target(2, 5, at(20)), 5);
        // They are forgotten, and the pool goes back to its minimum.
        assert_eq!(demand.target(2, 5, at(618)), 4);
        assert_eq!(demand.target(2, 5, at(700)), 2);
        assert_eq!(demand.target(0, 0, at(700)), 0);
        for _ in 0..5000 {
            demand.note(at(700));
        }
        assert_eq!(demand.0.len(), REMEMBERED);
    }

    #[test]
    fn the_budget_holds_before_one_more_is_made() {
        assert!(fits(100, &[]));
        assert!(fits(100, &[40]));
        assert!(fits(100, &[20, 40]));
        assert!(!fits(100, &[30, 40]));
        assert!(!fits(0, &[1]));
    }

    #[test]
    fn making_takes_its_share_of_a_processor_on_average() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(2 * second, 2 * second, 500), 2 * second);
        assert_eq!(pause(2 * second, 8 * second, 500), Duration::ZERO);
        assert_eq!(pause(2 * second, 3 * second, 2000), Duration::ZERO);
    }
}
