//! A second, identical request where the first takes unusually long.
//!
//! Owns: when that is (a moving p95), how often it may happen (a budget), and which answer counts.
//! Does not own: what a request is, and what becomes of a create without a clear answer.
//!
//! The first success counts, and the other request is dropped. A failure waits for the other
//! request: of two creates, one may well be refused because the other one won, with 412, or with
//! 409 while both are under way. Only when both have failed does the caller look at what is there,
//! and finds its own nonce if either won. The other request can do no harm later: what it puts is
//! the same object under the same key, and while an object is there a create changes nothing.

use std::future::Future;
use std::time::Duration;

use futures::future::{Either, select};
use levee_runtime::Host;
use parking_lot::Mutex;

use super::{Op, StoreError};

/// Whether and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedging {
    pub reads: bool,
    pub creates: bool,
    /// Second requests, of a hundred first ones.
    pub percent: u32,
    /// Nothing that is faster than this is worth a second request.
    pub floor: Duration,
}

impl Hedging {
    /// Each request once.
    pub const NONE: Self = Self { reads: false, creates: false, percent: 0, floor: Duration::ZERO };
}

impl Default for Hedging {
    fn default() -> Self {
        Self { reads: true, creates: false, percent: 5, floor: Duration::from_millis(10) }
    }
}

/// Times that the p95 is taken of.
const WINDOW: usize = 128;
/// Fewer say nothing about what is usual.
const ENOUGH: usize = 32;
/// The p95 is taken again after so many new times.
const REFRESH: usize = 16;
/// Second requests that may be saved up for a bad moment.
const BURST: u64 = 10;
/// Larger requests are limited by the line, which a second one would make slower.
const LARGEST: u64 = 8 << 20;
/// Requests of a kind are compared with those of about their size, up to each of these.
const SIZES: [u64; 3] = [64 << 10, 1 << 20, LARGEST];

/// What a store knows of its requests. One lock, held for a moment.
pub(super) struct Hedge {
    how: Hedging,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reads: [Times; SIZES.len()],
    creates: [Times; SIZES.len()],
    /// In hundredths of a request.
    budget: u64,
}

/// The newest times of one kind of request.
#[derive(Default)]
struct Times {
    ring: Vec<Duration>,
    next: usize,
    new: usize,
    p95: Option<Duration>,
}

impl Times {
    fn add(&mut self, took: Duration) {
        match self.ring.get_mut(self.next) {
            Some(oldest) => *oldest = took,
            None => self.ring.push(took),
        }
        self.next = (self.next + 1) % WINDOW;
        self.new += 1;
        if self.ring.len() >= ENOUGH && (self.new >= REFRESH || self.p95.is_none()) {
            let mut sorted = self.ring.clone();
            sorted.sort_unstable();
            self.p95 = sorted.get(sorted.len() * 95 / 100).copied();
            self.new = 0;
        }
    }
}

impl State {
    fn times(&mut self, op: Op, bytes: u64) -> &mut Times {
        let size = SIZES.iter().position(|size| bytes <= *size).unwrap_or(SIZES.len() - 1);
        match op {
            Op::Create => &mut self.creates[size],
            _ => &mut self.reads[size],
        }
    }
}

impl Hedge {
    pub(super) fn new(how: Hedging) -> Self {
        Self { how, state: Mutex::default() }
    }

    /// The answer of a request, or of its repetition.
    pub(super) async fn run<T, F>(
        &self,
        host: &Host,
        op: Op,
        bytes: u64,
        attempt: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let is_on = if op == Op::Create { self.how.creates } else { self.how.reads };
        if !is_on || bytes > LARGEST {
            return attempt().await;
        }
        let started = host.now();
        let answer = match self.patience(op, bytes) {
            None => attempt().await,
            Some(patience) => self.race(host, op, patience, attempt).await,
        };
        // What a caller waits is what the next ones are measured by, also where the second request
        // won: the first one alone was longer, and nobody knows by how much.
        if answer.is_ok() {
            self.state.lock().times(op, bytes).add(host.now().since(started));
        }
        answer
    }

    async fn race<T, F>(
        &self,
        host: &Host,
        op: Op,
        patience: Duration,
        attempt: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let first = std::pin::pin!(attempt());
        let unusual = std::pin::pin!(host.sleep(patience));
        let first = match select(first, unusual).await {
            Either::Left((answer, _)) => return answer,
            Either::Right(((), first)) => first,
        };
        if !self.spend() {
            count(op, "no_budget");
            return first.await;
        }
        count(op, "sent");
        let second = std::pin::pin!(attempt());
        match select(first, second).await {
            Either::Left((Ok(answer), _)) => {
                count_dropped(op);
                Ok(answer)
            }
            Either::Right((Ok(answer), _)) => {
                count(op, "won");
                count_dropped(op);
                Ok(answer)
            }
            Either::Left((Err(_), second)) => second.await.inspect(|_| count(op, "won")),
            Either::Right((Err(_), first)) => first.await,
        }
    }

    /// How long the first request gets, if a second one is worth it; every request adds to the
    /// budget.
    fn patience(&self, op: Op, bytes: u64) -> Option<Duration> {
        let mut state = self.state.lock();
        state.budget = (state.budget + u64::from(self.how.percent)).min(BURST * 100);
        let p95 = state.times(op, bytes).p95?;
        Some(p95.max(self.how.floor))
    }

    fn spend(&self) -> bool {
        let mut state = self.state.lock();
        match state.budget.checked_sub(100) {
            Some(left) => {
                state.budget = left;
                true
            }
            None => false,
        }
    }
}

fn count(op: Op, outcome: &'static str) {
    metrics::counter!("levee_store_hedges_total", "op" => op.name(), "outcome" => outcome)
        .increment(1);
}

/// A request that nobody waited for to its end: the store may bill it all the same.
fn count_dropped(op: Op) {
    metrics::counter!("levee_store_requests_total", "op" => op.name(), "outcome" => "dropped")
        .increment(1);
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use levee_runtime::sim::Sim;

    use super::*;
    use crate::store::Kind;

    const USUAL: Duration = Duration::from_millis(20);

    /// Answers in their order: after how long, and what.
    struct Script {
        host: Host,
        answers: RefCell<VecDeque<(u64, Result<&'static str, Kind>)>>,
        asked: RefCell<Vec<u64>>,
    }

    impl Script {
        async fn answer(&self, now: u64) -> Result<&'static str, StoreError> {
            self.asked.borrow_mut().push(now);
            let next = self.answers.borrow_mut().pop_front();
            let (ms, answer) = next.expect("an answer is left");
            self.host.sleep(Duration::from_millis(ms)).await;
            answer.map_err(|kind| StoreError::new(Op::Create, "k", kind, "as scripted"))
        }
    }

    async fn warm(hedge: &Hedge, host: &Host, op: Op, requests: usize) {
        for _ in 0..requests {
            let slow = || async {
                host.sleep(USUAL).await;
                Ok(())
            };
            hedge.run(host, op, 1, slow).await.unwrap();
        }
    }

    /// Runs one create after many usual ones: the answer, when it came and when each was asked.
    fn one(
        how: Hedging,
        usual: usize,
        answers: &[(u64, Result<&'static str, Kind>)],
    ) -> (Result<&'static str, Kind>, u64, Vec<u64>) {
        let (send, receive) = std::sync::mpsc::channel();
        let answers = answers.to_vec();
        Sim::run(1, |sim| async move {
            let host = sim.host("a").start();
            let hedge = Hedge::new(how);
            warm(&hedge, &host, Op::Create, usual).await;
            let (answers, asked) = (RefCell::new(answers.into()), RefCell::default());
            let script = Script { host: host.clone(), answers, asked };
            let begun = sim.elapsed_ms();
            let ask = || script.answer(sim.elapsed_ms() - begun);
            let answer = hedge.run(&host, Op::Create, 1, ask).await.map_err(|error| error.kind);
            let asked = script.asked.borrow().clone();
            send.send((answer, sim.elapsed_ms() - begun, asked)).unwrap();
        });
        receive.recv().unwrap()
    }

    fn both() -> Hedging {
        Hedging { creates: true, ..Hedging::default() }
    }

    #[test]
    fn the_first_success_counts_and_a_failure_waits_for_the_other() {
        use Kind::{Exists, Timeout, Unavailable};
        for (answers, wanted, at, asked) in [
            // Within what is usual: one request.
            (&[(20, Ok("a"))][..], Ok("a"), 20, &[0][..]),
            (&[(19, Err(Exists))], Err(Exists), 19, &[0]),
            // The second is faster; the first may be.
            (&[(500, Ok("a")), (20, Ok("b"))], Ok("b"), 40, &[0, 20]),
            (&[(30, Ok("a")), (20, Ok("b"))], Ok("a"), 30, &[0, 20]),
            // Refused because the other one won, whichever answers first.
            (&[(30, Err(Exists)), (200, Ok("b"))], Ok("b"), 220, &[0, 20]),
            (&[(300, Ok("a")), (20, Err(Exists))], Ok("a"), 300, &[0, 20]),
            // Both fail: the last word, from which the caller finds out.
            (&[(30, Err(Exists)), (200, Err(Timeout))], Err(Timeout), 220, &[0, 20]),
            (&[(90, Err(Unavailable)), (20, Err(Exists))], Err(Unavailable), 90, &[0, 20]),
        ] {
            assert_eq!(one(both(), 100, answers), (wanted, at, asked.to_vec()), "{answers:?}");
        }
    }

    #[test]
    fn nothing_is_hedged_without_reason() {
        let slow = [(500, Ok("a"))];
        let off = Hedging { creates: false, ..both() };
        let broke = Hedging { percent: 0, ..both() };
        let patient = Hedging { floor: Duration::from_secs(1), ..both() };
        for (how, usual) in [(off, 100), (broke, 100), (patient, 100), (both(), ENOUGH - 1)] {
            assert_eq!(one(how, usual, &slow), (Ok("a"), 500, vec![0]), "{how:?} {usual}");
        }
    }

    #[test]
    fn second_requests_keep_to_their_budget() {
        Sim::run(2, |sim| async move {
            let host = sim.host("a").start();
            let hedge = Hedge::new(Hedging::default());
            warm(&hedge, &host, Op::GetRange, ENOUGH).await;
            let asked = RefCell::new(0);
            const READS: usize = 1000;
            for read in 0..READS {
                // Every tenth is slow, twice what the budget has.
                let ms = if read % 10 == 0 { 400 } else { 20 };
                let ask = || async {
                    *asked.borrow_mut() += 1;
                    host.sleep(Duration::from_millis(ms)).await;
                    Ok(())
                };
                hedge.run(&host, Op::GetRange, 1, ask).await.unwrap();
            }
            let more = *asked.borrow() - READS;
            assert!((1..=READS * 5 / 100 + BURST as usize).contains(&more), "{more}");
        });
    }
}
