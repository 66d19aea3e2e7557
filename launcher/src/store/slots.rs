//! Slots in the ledger: sandboxes that wait for their server.
//!
//! A slot has a row of its own from birth, under a key that is nobody's. At the claim the same
//! row becomes the server's, in one transaction and once: a launcher that dies finds either a
//! slot, which it removes, or a start.

use rusqlite::{TransactionBehavior, params};

use super::{Cached as _, InQuery as _, NewSandbox, Store, StoreError, sandboxes};

impl Store {
    /// Turns a waiting slot's row into the row of a server's start; its generation.
    /// None if there is no such slot any more.
    pub fn claim_slot(&self, new: &NewSandbox) -> Result<Option<u64>, StoreError> {
        const VERB: &str = "claim a slot";
        let facts = serde_json::to_string(&new.facts).map_err(|source| StoreError::Content {
            what: new.id.to_string(),
            source: source.into(),
        })?;
        let mut connection = self.connection();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(VERB)?;
        let key = &new.key;
        let generation = sandboxes::next_generation(&transaction, key)?;
        let claimed = transaction
            .execute_cached(
                "UPDATE sandboxes SET hub = ?2, user = ?3, server = ?4, generation = ?5, request_id = ?6,
                 request_hash = ?7, facts = ?8 WHERE id = ?1 AND hub = '' AND state = 'starting'",
                params![
                    new.id.as_str(),
                    key.hub,
                    key.user.as_str(),
                    key.server,
                    generation,
                    new.request_id.as_str(),
                    new.request_hash.as_slice(),
                    facts
                ],
            )
            .map_err(|error| match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::ConstraintViolation) => StoreError::AlreadyLive,
                _ => StoreError::Query { verb: VERB, source: error },
            })?;
        if claimed == 0 {
            return Ok(None);
        }
        transaction.commit().doing(VERB)?;
        Ok(Some(generation))
    }
}

/// Nobody asks what became of a slot.
pub(super) fn forget_gone(transaction: &rusqlite::Transaction<'_>) -> Result<(), StoreError> {
    transaction
        .execute_cached(
            "DELETE FROM sandboxes WHERE hub = '' AND state = 'gone' AND run_range IS NULL
             AND NOT EXISTS (SELECT 1 FROM steps WHERE sandbox = id)",
            [],
        )
        .doing("forget slots")
        .map(|_| ())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        names::ServerKey,
        store::{
            ExitRecord,
            sandboxes::tests::{POOLS, new},
        },
    };

    fn slot(store: &Store, id: &str) {
        let slot = NewSandbox { key: ServerKey::slot(id), ..new(id, "nobody") };
        store.record_sandbox(&slot, POOLS).unwrap();
    }

    #[test]
    fn a_slot_is_claimed_once_and_keeps_its_leases() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.sqlite")).unwrap();
        slot(&store, "saaaaaaaaaaa");
        slot(&store, "sbbbbbbbbbbb");
        let before = store.sandboxes(POOLS.first_run_id).unwrap();
        assert!(before.iter().all(|record| record.key.is_slot() && record.generation == 0));

        assert_eq!(store.claim_slot(&new("saaaaaaaaaaa", "ana")).unwrap(), Some(1));
        // Neither the same slot for somebody else, nor another one for the same server.
        assert_eq!(store.claim_slot(&new("saaaaaaaaaaa", "ben")).unwrap(), None);
        assert!(matches!(
            store.claim_slot(&new("sbbbbbbbbbbb", "ana")),
            Err(StoreError::AlreadyLive)
        ));
        let after = store.sandboxes(POOLS.first_run_id).unwrap();
        let claimed = after.iter().find(|record| !record.key.is_slot()).unwrap();
        let born = before.iter().find(|record| record.id == claimed.id).unwrap();
        assert_eq!(claimed.key, ServerKey::new("hub", "ana", "").unwrap());
        assert_eq!(
            (claimed.run_range_first, claimed.address_index),
            (born.run_range_first, born.address_index)
        );
        // What was refused has not counted as a start of its server.
        let exit = ExitRecord {
            cause: 1,
            code: 0,
            signal: 0,
            message: String::new(),
            log_tail: String::new(),
        };
        store.record_exit(&claimed.id, &exit).unwrap();
        assert_eq!(store.claim_slot(&new("sbbbbbbbbbbb", "ana")).unwrap(), Some(2));
    }

    #[test]
    fn a_slot_that_is_gone_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.sqlite")).unwrap();
        slot(&store, "saaaaaaaaaaa");
        let exit = ExitRecord {
            cause: 1,
            code: 0,
            signal: 0,
            message: String::new(),
            log_tail: String::new(),
        };
        let id = "saaaaaaaaaaa".parse().unwrap();
        store.record_exit(&id, &exit).unwrap();
        assert_eq!(store.claim_slot(&new("saaaaaaaaaaa", "ana")).unwrap(), None);
        slot(&store, "sbbbbbbbbbbb");
        assert_eq!(store.sandboxes(POOLS.first_run_id).unwrap().len(), 2, "it holds leases");
        store.give_back(&id).unwrap();
        slot(&store, "sccccccccccc");
        assert_eq!(store.sandboxes(POOLS.first_run_id).unwrap().len(), 2);
    }
}
