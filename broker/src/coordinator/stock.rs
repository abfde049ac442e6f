//! Producer ids on their way to a state machine, beside everything else that it does: they come from
//! the controller, which may be away.

use std::time::Duration;

use futures::future;
use levee_runtime::{Host, Task};

use crate::error::Result;

/// After a round that gave nothing.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Stock {
    /// One at a time, as a task: it holds the lock of all producer ids, and a shard that appends
    /// would not drive it.
    coming: Option<Task<Option<i64>>>,
}

impl Stock {
    /// The next id, none where it did not come; waits for ever where none is `wanted`.
    pub(super) async fn next<F>(
        &mut self,
        wanted: usize,
        host: &Host,
        fetch: impl FnOnce() -> F,
    ) -> Option<i64>
    where
        F: Future<Output = Result<i64>> + Send + 'static,
    {
        if wanted == 0 {
            future::pending::<()>().await;
        }
        let coming = self.coming.get_or_insert_with(|| {
            let (clock, fetched) = (host.clone(), fetch());
            let or_wait = async move {
                match fetched.await {
                    Ok(id) => Some(id),
                    Err(error) => {
                        tracing::debug!(%error, "no producer ids now");
                        clock.sleep(AGAIN).await;
                        None
                    }
                }
            };
            host.spawn("producer-id", or_wait)
        });
        let id = coming.await;
        self.coming = None;
        id.flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::FutureExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::error::Error;

    #[tokio::test]
    async fn who_waits_for_ids_goes_on_with_everything_else() {
        let host = levee_runtime::real::RealWorld::host();
        let (asked, mut stock) = (Cell::new(0), Stock::default());
        let (give, given) = oneshot::channel();
        let mut given = Some(given);
        let mut fetch = || {
            asked.set(asked.get() + 1);
            let given = given.take();
            async move { given.unwrap().await.map_err(|_| Error::internal("gone")) }
        };
        for _ in 0..3 {
            tokio::select! {
                biased;
                _ = stock.next(8, &host, &mut fetch) => panic!("no id was given"),
                () = future::ready(()) => {}
            }
        }
        give.send(7).unwrap();
        assert_eq!((stock.next(8, &host, &mut fetch).await, asked.get()), (Some(7), 1));
        // Nothing is asked for that is not wanted.
        assert!(stock.next(0, &host, &mut fetch).now_or_never().is_none());
    }
}
