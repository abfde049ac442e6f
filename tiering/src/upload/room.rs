//! How much of an object is taken while parts are gathered for it.

use levee_proto::limits::FOOTER_BYTES_MAX;
use levee_proto::object::footer::footer_bytes;
use levee_proto::object::{AbortedTxn, ProducerSnapshot};

/// Footers stay well below what a reader takes.
const FOOTER_BYTES: u64 = FOOTER_BYTES_MAX as u64 / 2;

/// Room in one object, by bytes of data and of its footer.
#[derive(Debug)]
pub struct Room {
    data_max: u64,
    data: u64,
    footer: u64,
}

impl Room {
    pub fn new(data_max: u64) -> Self {
        Self { data_max, data: 0, footer: 0 }
    }

    /// Takes room for a part; false, and nothing is taken, where it needs another object. The first
    /// part always fits.
    pub fn take(
        &mut self,
        data: u64,
        producers: Option<&ProducerSnapshot>,
        aborted: &[AbortedTxn],
    ) -> bool {
        let footer = self.footer + footer_bytes(data, producers, aborted.len());
        let fits = self.data + data <= self.data_max && footer <= FOOTER_BYTES;
        let first = self.footer == 0;
        if fits || first {
            (self.data, self.footer) = (self.data + data, footer);
        }
        fits || first
    }
}

#[cfg(test)]
mod tests {
    use levee_proto::object::ProducerEntry;

    use super::*;

    #[test]
    fn data_and_producers_fill_an_object() {
        let mut room = Room::new(100);
        assert!(room.take(200, None, &[]), "the first part always fits");
        assert!(!room.take(1, None, &[]));
        let entry = ProducerEntry {
            producer_id: 1,
            producer_epoch: 0,
            coordinator_epoch: -1,
            last_timestamp: 0,
            open_txn_start: None,
            batches: Vec::new(),
        };
        let many = ProducerSnapshot { producers: vec![entry; 400_000] };
        let mut room = Room::new(100);
        let taken = (0..10).take_while(|_| room.take(1, Some(&many), &[])).count();
        assert_eq!(taken, 2, "12.8 MB each");
    }
}
