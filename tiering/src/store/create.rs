//! Create-once: the one thing that a store is trusted for.
//!
//! Owns: what came of a create, whatever was answered. Does not own: when a slow one is repeated
//! (`hedge`).

use std::time::Duration;

use bytes::Bytes;
use levee_proto::head::{HEAD_BYTES, Head};
use levee_proto::ids::Nonce;
use levee_runtime::Backoff;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};

use super::direct::{self, DIRECT_ABOVE};
use super::{Kind, Op, Store, StoreError};

/// What came of a create.
#[derive(Debug)]
pub enum Created {
    /// The object there is ours.
    Won,
    /// Another object was there first.
    Lost(Lost),
    /// No answer: it may be there now, later, or never.
    Unknown(StoreError),
}

/// The object that was there first.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    pub key: String,
    /// Its head, or why it has none.
    pub found: Result<Head, String>,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.found {
            Ok(head) => write!(f, "{}: a {:?} of {}", self.key, head.kind, head.writer),
            Err(why) => write!(f, "{}: {why}", self.key),
        }
    }
}

impl Store {
    /// Puts an object where none is: tried once (and once more where that is slow), resolved by
    /// `nonce`, which the head must carry.
    pub async fn create(&self, key: &str, body: Vec<Bytes>, nonce: Nonce) -> Created {
        let bytes = body.iter().map(Bytes::len).sum::<usize>() as u64;
        let put = || {
            let put = self.put_new(key, body.clone(), bytes);
            self.once_within(self.request_limit(bytes), Op::Create, key, put)
        };
        let error = match self.hedge.run(&self.host, Op::Create, bytes, put).await {
            Ok(()) => {
                metrics::counter!("levee_store_bytes_total", "op" => "create").increment(bytes);
                return Created::Won;
            }
            Err(error) => error,
        };
        error.ensure_disk();
        self.resolve(key, (nonce, bytes), error).await
    }

    async fn put_new(&self, key: &str, body: Vec<Bytes>, bytes: u64) -> object_store::Result<()> {
        match &self.folder {
            Some(root) if bytes >= DIRECT_ABOVE => {
                direct::put(&self.host, root.clone(), key, &body).await
            }
            _ => {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                let payload = PutPayload::from_iter(body);
                self.inner.put_opts(&self.path(key), payload, options).await.map(drop)
            }
        }
    }

    /// Whose object is there after a create without a clear yes; ours has this nonce and size.
    async fn resolve(&self, key: &str, (nonce, bytes): (Nonce, u64), error: StoreError) -> Created {
        // Two reads must agree before a damaged head counts as somebody else's: bytes can be
        // damaged on their way, and Lost is final.
        let (first, again) = (self.head_of(key).await, self.head_of(key));
        match first {
            // A store that writes in place may have got half of it, now or for ever.
            Some(Ok((head, size))) if head.nonce == nonce && size != bytes => {
                let why = format!("{size} of {bytes} bytes are there");
                Created::Unknown(self.error(Op::Create, key, Kind::Unavailable, why))
            }
            Some(Ok((head, _))) if head.nonce == nonce => match self.sync_folder(key).await {
                Ok(()) => Created::Won,
                Err(error) => Created::Unknown(error),
            },
            Some(Ok((head, _))) => Created::Lost(Lost { key: key.into(), found: Ok(head) }),
            Some(Err(why)) if again.await == Some(Err(why.clone())) => {
                Created::Lost(Lost { key: key.into(), found: Err(why) })
            }
            Some(Err(_)) | None => Created::Unknown(error),
        }
    }

    /// Head and size of an object, or why it has none; nothing where no object is there or nobody
    /// can tell.
    async fn head_of(&self, key: &str) -> Option<Result<(Head, u64), String>> {
        match self.get_range_once(key, 0..HEAD_BYTES as u64).await {
            Ok(found) => {
                let (size, bytes) = found?;
                let head = Head::decode(&bytes).map_err(|error| error.to_string());
                Some(head.map(|head| (head, size)))
            }
            // Ours is never that short. Always the same words: two reads are compared.
            Err(short) if short.kind == Kind::Short => Some(Err("it has no whole head".into())),
            Err(_) => None,
        }
    }

    /// As `create`, with the same bytes to the same key for as long as it takes. The caller gives
    /// up by dropping the future; `on_unknown` hears of every try without an answer.
    pub async fn create_known(
        &self,
        key: &str,
        body: Vec<Bytes>,
        nonce: Nonce,
        mut on_unknown: impl FnMut(&StoreError) + Send,
    ) -> Result<(), Lost> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        loop {
            match self.create(key, body.clone(), nonce).await {
                Created::Won => return Ok(()),
                Created::Lost(lost) => return Err(lost),
                Created::Unknown(error) => on_unknown(&error),
            }
            backoff.wait(&self.host).await;
        }
    }
}
