//! The search for the highest rate that keeps to a target. Pure: it is told what each rate came to.
//!
//! Ramp by doubling until a rate fails, halve what is between, then try the best one once more
//! for longer. What fails there is tried again a little slower.

/// What one rate came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Good,
    /// Why not.
    Bad(String),
}

/// What to try next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Try(u64),
    /// For longer.
    Confirm(u64),
    Over,
}

/// Tries to confirm before it is given up.
const CONFIRMATIONS: u32 = 4;
/// A best rate that does not hold is tried again at this share of it.
const BACK: f64 = 0.9;

/// See the module.
pub struct Search {
    to: u64,
    /// The bounds are near enough when they differ by this share.
    precision: f64,
    next: Step,
    good: Option<u64>,
    bad: Option<(u64, String)>,
    confirmed: Option<u64>,
    unconfirmed: u32,
}

impl Search {
    pub fn new(from: u64, to: u64, precision: f64) -> Self {
        let next = Step::Try(from);
        Self { to, precision, next, good: None, bad: None, confirmed: None, unconfirmed: 0 }
    }

    pub fn next(&self) -> Step {
        self.next
    }

    /// What the step of `next` came to.
    pub fn told(&mut self, verdict: Verdict) {
        self.next = match (self.next, verdict) {
            (Step::Over, _) => Step::Over,
            (Step::Confirm(rate), Verdict::Good) => {
                self.confirmed = Some(rate);
                Step::Over
            }
            (Step::Confirm(rate), Verdict::Bad(why)) => self.not_confirmed(rate, why),
            (Step::Try(rate), Verdict::Good) => {
                self.good = Some(rate);
                self.between()
            }
            (Step::Try(rate), Verdict::Bad(why)) => {
                self.bad = Some((rate, why));
                self.between()
            }
        };
    }

    fn between(&self) -> Step {
        match (self.good, &self.bad) {
            (Some(good), None) if good >= self.to => Step::Confirm(good),
            (Some(good), None) => Step::Try(good.saturating_mul(2).min(self.to)),
            (Some(good), Some((bad, _))) => {
                let near = (bad - good) as f64 <= self.precision * good as f64;
                let middle = good + (bad - good) / 2;
                if near || middle == good { Step::Confirm(good) } else { Step::Try(middle) }
            }
            // Not even the first rate: downwards, to one record a second.
            (None, Some((bad, _))) if *bad > 1 => Step::Try(bad / 2),
            (None, _) => Step::Over,
        }
    }

    fn not_confirmed(&mut self, rate: u64, why: String) -> Step {
        self.bad = Some((rate, why));
        self.unconfirmed += 1;
        let slower = (rate as f64 * BACK) as u64;
        if self.unconfirmed >= CONFIRMATIONS || slower == 0 {
            return Step::Over;
        }
        Step::Confirm(slower)
    }

    /// The rate that held, twice.
    pub fn best(&self) -> Option<u64> {
        self.confirmed
    }

    pub fn why_it_stopped(&self) -> String {
        match (&self.bad, self.confirmed) {
            (Some((rate, why)), Some(_)) => format!("at {rate}/s {why}"),
            (None, Some(rate)) => format!("{rate}/s is the highest rate that was to be tried"),
            (Some((rate, why)), None) if self.next == Step::Over => {
                format!("no rate held: at {rate}/s {why}")
            }
            _ => "it was ended before it was over".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches on a target that holds up to `limit`, for a while up to `short`.
    fn search(limit: u64, short: u64, search: &mut Search) -> u32 {
        for steps in 0..100 {
            let verdict = |good| match good {
                true => Verdict::Good,
                false => Verdict::Bad("p99 is high".into()),
            };
            match search.next() {
                Step::Try(rate) => search.told(verdict(rate <= short)),
                Step::Confirm(rate) => search.told(verdict(rate <= limit)),
                Step::Over => return steps,
            }
        }
        panic!("a search ends");
    }

    #[test]
    fn it_converges_on_the_limit() {
        for limit in [1_300, 50_000, 77_777, 999_999] {
            let mut found = Search::new(1_000, 10_000_000, 0.05);
            let steps = search(limit, limit, &mut found);
            let best = found.best().unwrap();
            assert!(best <= limit && best as f64 >= limit as f64 * 0.95, "{best} of {limit}");
            assert!(steps < 20, "{steps} steps");
            assert!(found.why_it_stopped().contains("p99 is high"));
        }
    }

    #[test]
    fn it_goes_down_where_the_first_rate_is_too_high() {
        let mut found = Search::new(64_000, 10_000_000, 0.05);
        search(900, 900, &mut found);
        assert!((850..=900).contains(&found.best().unwrap()), "{:?}", found.best());
        let mut none = Search::new(64_000, 10_000_000, 0.05);
        search(0, 0, &mut none);
        assert_eq!(none.best(), None);
        assert!(none.why_it_stopped().contains("no rate held"));
    }

    #[test]
    fn what_holds_only_for_a_moment_is_not_the_answer() {
        let mut found = Search::new(1_000, 10_000_000, 0.05);
        search(80_000, 100_000, &mut found);
        let best = found.best().unwrap();
        assert!((72_000..=80_000).contains(&best), "{best}");
    }

    #[test]
    fn it_ends_at_the_highest_rate_that_is_asked_for() {
        let mut found = Search::new(1_000, 30_000, 0.05);
        search(u64::MAX, u64::MAX, &mut found);
        assert_eq!(found.best(), Some(30_000));
        assert!(found.why_it_stopped().contains("highest"));
    }
}
