//! When each send of a producer is due. Pure: times are nanoseconds of the run's clock.
//!
//! The schedule does not wait for anybody: a send that could not go when it was due keeps its due
//! time, and its latency counts from there (no coordinated omission).

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::workload::Arrivals;

const SECOND: u128 = 1_000_000_000;

/// What all producers of a phase share.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Records a second of all producers together.
    pub rate: u64,
    pub batch_records: u32,
    pub producers: u32,
    pub arrivals: Arrivals,
}

/// The due times of one producer, in order.
pub struct Schedule {
    pace: Pace,
    producer: u32,
    start: u64,
    end: u64,
    sent: u64,
    /// Of the last one, with Poisson arrivals.
    last: u64,
    random: StdRng,
}

impl Pace {
    /// Nanoseconds between two sends of one producer, on average.
    pub fn gap(&self) -> u64 {
        let gap = SECOND * u128::from(self.batch_records) * u128::from(self.producers);
        ((gap / u128::from(self.rate.max(1))) as u64).max(1)
    }

    /// Sends that are due at `now` and not sent, of a producer whose next one was due at `next`.
    pub fn behind(&self, next: u64, now: u64) -> u64 {
        if now < next { 0 } else { 1 + (now - next) / self.gap() }
    }
}

impl Schedule {
    pub fn new(pace: Pace, producer: u32, start: u64, end: u64, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed ^ (u64::from(producer) << 32));
        Self { pace, producer, start, end, sent: 0, last: start, random }
    }

    fn even(&self) -> u64 {
        let number = u128::from(self.sent) * u128::from(self.pace.producers);
        let number = number + u128::from(self.producer);
        let rate = u128::from(self.pace.rate.max(1));
        self.start + (number * SECOND * u128::from(self.pace.batch_records) / rate) as u64
    }

    fn poisson(&mut self) -> u64 {
        // 1 - [0, 1) is never 0, whose logarithm is no number.
        let uniform: f64 = 1.0 - self.random.random::<f64>();
        self.last + (-uniform.ln() * self.pace.gap() as f64) as u64
    }
}

impl Iterator for Schedule {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let due = match self.pace.arrivals {
            Arrivals::Even => self.even(),
            Arrivals::Poisson => self.poisson(),
        };
        (self.sent, self.last) = (self.sent + 1, due);
        (due < self.end).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(arrivals: Arrivals) -> Pace {
        Pace { rate: 10_000, batch_records: 10, producers: 4, arrivals }
    }

    fn all(arrivals: Arrivals) -> Vec<u64> {
        let mut due: Vec<_> = (0..4)
            .flat_map(|producer| Schedule::new(pace(arrivals), producer, 500, 2_000_000_500, 7))
            .collect();
        due.sort_unstable();
        due
    }

    #[test]
    fn even_sends_share_the_rate_without_bunching() {
        let due = all(Arrivals::Even);
        assert_eq!(due.len(), 2000);
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000), "every millisecond");
        assert_eq!(due[0], 500);
    }

    #[test]
    fn poisson_sends_keep_the_rate_and_bunch() {
        let due = all(Arrivals::Poisson);
        assert!((1800..2200).contains(&due.len()), "{}", due.len());
        let near = due.windows(2).filter(|pair| pair[1] - pair[0] < 100_000).count();
        assert!(near > 100, "{near} gaps below a tenth of the mean");
        assert_eq!(due, all(Arrivals::Poisson), "the same seed gives the same times");
    }

    #[test]
    fn who_is_behind_is_behind_by_time_and_rate() {
        let pace = pace(Arrivals::Even);
        assert_eq!(pace.gap(), 4_000_000);
        assert_eq!(pace.behind(10, 9), 0);
        assert_eq!(pace.behind(10, 10), 1);
        assert_eq!(pace.behind(0, 40_000_000), 11);
    }
}
