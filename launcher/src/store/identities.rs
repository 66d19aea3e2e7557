//! Disk identities: one number per owner, used as uid and as gid, never given twice.
//!
//! The number is on disk with a full sync before anybody sees it, and its row
//! is never deleted: files of a deleted user keep their number for ever.

use std::ops::RangeInclusive;

use rusqlite::{OptionalExtension as _, TransactionBehavior, params};

use super::{Cached as _, InQuery as _, Store, StoreError, now};
use crate::names::Owner;

/// The numbers that stand for one owner on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    pub uid: u32,
    pub gid: u32,
}

impl Store {
    /// Numbers up to `highest` are taken by files that exist, whoever's they are.
    /// For a ledger that was lost: a new one must not give old numbers to new users.
    pub fn reserve_up_to(&self, highest: u32) -> Result<(), StoreError> {
        self.connection()
            .execute_cached(
                "INSERT INTO counters (name, value) VALUES ('highest_disk_id', ?1)
                 ON CONFLICT DO UPDATE SET value = max(value, ?1)",
                params![highest],
            )
            .doing("reserve disk ids")
            .map(|_| ())
    }

    /// An identity that only a home tells of: its owner is whose name gives that hash.
    pub fn adopt_identity(&self, on_disk: &str, id: u32) -> Result<(), StoreError> {
        self.connection()
            .execute_cached(
                "INSERT INTO disk_identities (on_disk, id, created_at) VALUES (?1, ?2, ?3)",
                params![on_disk, id, now()],
            )
            .doing("adopt a disk id")
            .map(|_| ())
    }

    /// The owner's identity, reserved now if this is the first time.
    pub fn disk_identity(
        &self,
        owner: &Owner,
        range: RangeInclusive<u32>,
    ) -> Result<DiskIdentity, StoreError> {
        const VERB: &str = "reserve a disk id";
        let mut connection = self.connection();
        let on_disk = owner.on_disk();
        let known = connection
            .query_row_cached(
                "SELECT id, user IS NULL FROM disk_identities WHERE on_disk = ?1",
                params![on_disk],
                |row| Ok((row.get::<_, u32>(0)?, row.get::<_, bool>(1)?)),
            )
            .optional()
            .doing(VERB)?;
        if let Some((id, nameless)) = known {
            if nameless {
                // Rebuilt from the home alone; now somebody comes whose name fits.
                connection
                    .execute_cached(
                        "UPDATE disk_identities SET hub = ?2, user = ?3 WHERE on_disk = ?1",
                        params![on_disk, owner.hub, owner.user.as_str()],
                    )
                    .doing(VERB)?;
            }
            return Ok(DiskIdentity { uid: id, gid: id });
        }
        connection.pragma_update(None, "synchronous", "FULL").doing(VERB)?;
        let reserved = (|| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(VERB)?;
            let last: Option<u32> = transaction
                .query_row_cached(
                    "SELECT max(taken) FROM (SELECT max(id) AS taken FROM disk_identities
                     UNION ALL SELECT value FROM counters WHERE name = 'highest_disk_id')",
                    [],
                    |row| row.get(0),
                )
                .doing(VERB)?;
            let id = last.map_or(*range.start(), |last| last.saturating_add(1).max(*range.start()));
            if !range.contains(&id) {
                return Err(StoreError::Exhausted {
                    what: "disk id",
                    total: range.end() - range.start() + 1,
                });
            }
            transaction
                .execute_cached(
                    "INSERT INTO disk_identities (on_disk, hub, user, id, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![on_disk, owner.hub, owner.user.as_str(), id, now()],
                )
                .doing(VERB)?;
            transaction.commit().doing(VERB)?;
            Ok(DiskIdentity { uid: id, gid: id })
        })();
        connection.pragma_update(None, "synchronous", "NORMAL").doing(VERB)?;
        reserved
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use super::*;
    use crate::names::ServerKey;

    fn owner(hub: &str, user: &str) -> Owner {
        ServerKey::new(hub, user, "").unwrap().owner()
    }

    #[test]
    fn a_thousand_at_once_get_unique_ids_that_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.sqlite");
        let store = Arc::new(Store::open(&path).unwrap());
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let store = Arc::clone(&store);
                std::thread::spawn(move || {
                    (0..250)
                        .map(|user| {
                            store
                                .disk_identity(
                                    &owner("hub", &format!("{worker}-{user}")),
                                    70_000..=80_000,
                                )
                                .unwrap()
                                .uid
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let ids: Vec<u32> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1000);
        drop(store);
        let store = Store::open(&path).unwrap();
        let again = store.disk_identity(&owner("hub", "0-0"), 70_000..=80_000).unwrap();
        assert_eq!(again.uid, ids[0]);
        let other_hub = store.disk_identity(&owner("other", "0-0"), 70_000..=80_000).unwrap();
        assert!(!ids.contains(&other_hub.uid));
    }

    #[test]
    fn a_new_ledger_never_gives_the_numbers_of_existing_homes() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.sqlite")).unwrap();
        store.reserve_up_to(70_500).unwrap();
        store.reserve_up_to(70_100).unwrap();
        assert_eq!(store.disk_identity(&owner("hub", "a"), 70_000..=80_000).unwrap().uid, 70_501);
    }

    #[test]
    fn an_identity_known_by_its_home_alone_is_found_by_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.sqlite")).unwrap();
        let ana = owner("hub", "ana");
        store.adopt_identity(&ana.on_disk(), 70_007).unwrap();
        assert_eq!(store.disk_identity(&owner("hub", "ben"), 70_000..=80_000).unwrap().uid, 70_008);
        assert_eq!(store.disk_identity(&ana, 70_000..=80_000).unwrap().uid, 70_007);
        assert_eq!(store.disk_identity(&ana, 70_000..=80_000).unwrap().uid, 70_007);
    }

    #[test]
    fn an_exhausted_range_is_an_error_not_a_reuse() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.sqlite")).unwrap();
        for user in ["a", "b"] {
            store.disk_identity(&owner("hub", user), 70_000..=70_001).unwrap();
        }
        assert!(matches!(
            store.disk_identity(&owner("hub", "c"), 70_000..=70_001),
            Err(StoreError::Exhausted { .. })
        ));
    }
}
