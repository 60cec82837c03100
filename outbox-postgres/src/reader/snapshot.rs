//! PostgreSQL's snapshots, as `pg_current_snapshot()` prints them.

use std::sync::Arc;

use outbox_core::{Error, ErrorKind, Result};

/// Which transactions had ended at some moment. Only top-level transactions count, as in the column `xact`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Transactions with this id or a higher one had not ended. They may have begun.
    end: u64,
    /// Those below that had begun and had not ended, ascending.
    running: Vec<u64>,
    text: Arc<str>,
}

impl Snapshot {
    /// Reads `xmin:xmax:xip,xip,…`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let invalid = || {
            Error::new(ErrorKind::Internal, "the database printed a snapshot in a way that is not known")
                .with("snapshot", text)
        };
        let mut parts = text.splitn(3, ':').skip(1);
        let (Some(end), Some(running)) = (parts.next(), parts.next()) else { return Err(invalid()) };
        let running = running.split(',').filter(|xid| !xid.is_empty()).map(str::parse);
        let mut running: Vec<u64> = running.collect::<Result<_, _>>().map_err(|_| invalid())?;
        running.sort_unstable();
        Ok(Self { end: end.parse().map_err(|_| invalid())?, running, text: text.into() })
    }

    /// The first id of which it is not known whether it had been given out.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The transactions below [`end`](Self::end) that had begun and had not ended.
    pub(crate) fn running(&self) -> &[u64] {
        &self.running
    }

    /// Whether the transaction had ended, by commit or by rollback.
    pub(crate) fn has_ended(&self, xid: u64) -> bool {
        xid < self.end && self.running.binary_search(&xid).is_err()
    }

    /// As the database printed it.
    pub(crate) fn text(&self) -> &Arc<str> {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_tells_what_had_ended() {
        let snapshot = Snapshot::parse("10:20:10,14,15").unwrap();
        let ended: Vec<_> = (8..22).filter(|xid| snapshot.has_ended(*xid)).collect();
        assert_eq!(ended, [8, 9, 11, 12, 13, 16, 17, 18, 19]);
        assert_eq!(Snapshot::parse("748:748:").unwrap().running(), [0; 0]);
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in ["", "1:2", "1:x:", "1:2:3,x"] {
            assert_eq!(Snapshot::parse(text).unwrap_err().kind(), ErrorKind::Internal, "{text}");
        }
    }
}
