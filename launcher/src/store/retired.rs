//! Homes of forgotten users: their identities are retired, never reused, and what
//! is to become of the home is journalled before anything is moved or removed.
//!
//! ```text
//! owned ──retire──> moving ──> aside ──> purging ──> gone
//!   ^                            │
//!   └──────── returning <────────┘
//! ```
//! From `moving` on, a user of the same name is another owner with another number.
//! A row is deleted only when its identity goes back to its owner.

use rusqlite::{OptionalExtension as _, Row, TransactionBehavior, params};

use super::{Cached as _, InQuery as _, Store, StoreError, now};
use crate::names::Owner;

/// Where a retired home is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetiredState {
    /// It may lie in its old place still.
    Moving,
    Aside,
    /// Some of it may be gone.
    Purging,
    /// It may lie in its old place again.
    Returning,
    /// The home is gone; the number stays taken.
    Gone,
}

impl RetiredState {
    const ALL: [Self; 5] = [Self::Moving, Self::Aside, Self::Purging, Self::Returning, Self::Gone];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Moving => "moving",
            Self::Aside => "aside",
            Self::Purging => "purging",
            Self::Returning => "returning",
            Self::Gone => "gone",
        }
    }
}

/// A retired identity and its home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredHome {
    pub number: i64,
    pub hub: String,
    pub user: String,
    /// The name it had in the home root.
    pub on_disk: String,
    pub id: u32,
    pub owned_since: u64,
    pub retired_at: u64,
    /// Absent: it is kept until somebody says otherwise.
    pub purge_at: Option<u64>,
    pub state: RetiredState,
}

impl RetiredHome {
    /// Its name among those set aside.
    pub fn name(&self) -> String {
        format!("{}-{}", self.id, self.number)
    }
}

/// An identity in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedIdentity {
    pub on_disk: String,
    /// Both are empty where only the home is known.
    pub hub: String,
    pub user: String,
    pub id: u32,
    pub since: u64,
}

pub const COLUMNS: &str =
    "number, hub, user, on_disk, id, owned_since, retired_at, purge_at, state";

pub fn read(row: &Row<'_>) -> rusqlite::Result<RetiredHome> {
    let state: String = row.get(8)?;
    let known = RetiredState::ALL.into_iter().find(|known| known.name() == state);
    Ok(RetiredHome {
        number: row.get(0)?,
        hub: row.get(1)?,
        user: row.get(2)?,
        on_disk: row.get(3)?,
        id: row.get(4)?,
        owned_since: row.get(5)?,
        retired_at: row.get(6)?,
        purge_at: row.get(7)?,
        state: known.ok_or(rusqlite::Error::InvalidColumnName(state))?,
    })
}

impl Store {
    /// Takes the owner's identity away for good, and writes down that the home is to
    /// be set aside. Nothing if the owner has none. On disk before it returns.
    pub fn retire(
        &self,
        owner: &Owner,
        purge_at: Option<u64>,
    ) -> Result<Option<RetiredHome>, StoreError> {
        const VERB: &str = "retire a disk id";
        self.in_full_sync(VERB, |transaction| {
            let on_disk = owner.on_disk();
            let known: Option<(u32, u64)> = transaction
                .query_row(
                    "SELECT id, created_at FROM disk_identities WHERE on_disk = ?1",
                    params![on_disk],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()
                .doing(VERB)?;
            let Some((id, owned_since)) = known else { return Ok(None) };
            transaction
                .execute("DELETE FROM disk_identities WHERE on_disk = ?1", params![on_disk])
                .doing(VERB)?;
            // The highest number counts as taken even when its row is not among those in use.
            transaction
                .execute(
                    "INSERT INTO counters (name, value) VALUES ('highest_disk_id', ?1)
                     ON CONFLICT DO UPDATE SET value = max(value, ?1)",
                    params![id],
                )
                .doing(VERB)?;
            let home = transaction
                .query_row(
                    &format!(
                        "INSERT INTO retired_homes (hub, user, on_disk, id, owned_since, retired_at, purge_at, state)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'moving') RETURNING {COLUMNS}"
                    ),
                    params![
                        owner.hub,
                        owner.user.as_str(),
                        on_disk,
                        id,
                        owned_since,
                        now(),
                        purge_at
                    ],
                    read,
                )
                .doing(VERB)?;
            Ok(Some(home))
        })
    }

    /// Notes where a retired home is now.
    pub fn set_retired(&self, number: i64, state: RetiredState) -> Result<(), StoreError> {
        const VERB: &str = "record what becomes of a home";
        self.in_full_sync(VERB, |transaction| {
            transaction
                .execute(
                    "UPDATE retired_homes SET state = ?2 WHERE number = ?1",
                    params![number, state.name()],
                )
                .doing(VERB)
                .map(|_| ())
        })
    }

    /// Gives a returned home's identity back to its owner.
    pub fn reinstate(&self, home: &RetiredHome) -> Result<(), StoreError> {
        const VERB: &str = "give a disk id back to its owner";
        self.in_full_sync(VERB, |transaction| {
            transaction
                .execute(
                    "INSERT INTO disk_identities (on_disk, hub, user, id, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![home.on_disk, home.hub, home.user, home.id, home.owned_since],
                )
                .doing(VERB)?;
            transaction
                .execute("DELETE FROM retired_homes WHERE number = ?1", params![home.number])
                .doing(VERB)
                .map(|_| ())
        })
    }

    /// Every retired home that is not gone.
    pub fn retired(&self) -> Result<Vec<RetiredHome>, StoreError> {
        const VERB: &str = "read the retired homes";
        let connection = self.connection();
        let mut query = connection
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM retired_homes WHERE state != 'gone' ORDER BY number"
            ))
            .doing(VERB)?;
        query.query_map([], read).doing(VERB)?.collect::<rusqlite::Result<_>>().doing(VERB)
    }

    /// Whether a home of this owner is between its place and those set aside. Asked at every start.
    pub fn is_home_moving(&self, owner: &Owner) -> Result<bool, StoreError> {
        let (moving, returning) = (RetiredState::Moving.name(), RetiredState::Returning.name());
        self.connection()
            .query_row_cached(
                "SELECT EXISTS (SELECT 1 FROM retired_homes WHERE on_disk = ?1 AND state IN (?2, ?3))",
                params![owner.on_disk(), moving, returning],
                |row| row.get(0),
            )
            .doing("look for a home that is being moved")
    }

    /// Every identity in use.
    pub fn identities(&self) -> Result<Vec<OwnedIdentity>, StoreError> {
        const VERB: &str = "read the identities";
        let connection = self.connection();
        let mut query = connection
            .prepare_cached(
                "SELECT on_disk, coalesce(hub, ''), coalesce(user, ''), id, created_at FROM disk_identities ORDER BY id",
            )
            .doing(VERB)?;
        query
            .query_map([], |row| {
                Ok(OwnedIdentity {
                    on_disk: row.get(0)?,
                    hub: row.get(1)?,
                    user: row.get(2)?,
                    id: row.get(3)?,
                    since: row.get(4)?,
                })
            })
            .doing(VERB)?
            .collect::<rusqlite::Result<_>>()
            .doing(VERB)
    }

    /// The owner's number, if there is one; none is reserved.
    pub fn identity_of(&self, owner: &Owner) -> Result<Option<u32>, StoreError> {
        self.connection()
            .query_row(
                "SELECT id FROM disk_identities WHERE on_disk = ?1",
                params![owner.on_disk()],
                |row| row.get(0),
            )
            .optional()
            .doing("look for a disk id")
    }

    /// Deletes what is told of the owner's servers that ended: the last words of a
    /// deleted user are nobody's to read.
    pub fn forget_ended(&self, owner: &Owner) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "DELETE FROM sandboxes WHERE hub = ?1 AND user = ?2 AND state = 'gone' AND run_range IS NULL
                 AND NOT EXISTS (SELECT 1 FROM steps WHERE sandbox = id)",
                params![owner.hub, owner.user.as_str()],
            )
            .doing("forget a user's servers")
            .map(|_| ())
    }

    /// One transaction that is on disk before it returns: what it says must survive a power cut.
    fn in_full_sync<T>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection();
        connection.pragma_update(None, "synchronous", "FULL").doing(verb)?;
        let result = (|| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(verb)?;
            let result = work(&transaction)?;
            transaction.commit().doing(verb)?;
            Ok(result)
        })();
        connection.pragma_update(None, "synchronous", "NORMAL").doing(verb)?;
        result
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::names::ServerKey;

    const RANGE: std::ops::RangeInclusive<u32> = 70_000..=80_000;

    #[test]
    fn a_retired_number_is_never_given_again_and_can_go_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.sqlite");
        let store = Store::open(&path).unwrap();
        let ana = ServerKey::new("hub", "ana", "").unwrap().owner();
        assert_eq!(store.retire(&ana, None).unwrap(), None);
        let first = store.disk_identity(&ana, RANGE).unwrap().uid;
        let home = store.retire(&ana, Some(5)).unwrap().unwrap();
        assert_eq!((home.id, home.state, home.purge_at), (first, RetiredState::Moving, Some(5)));
        let ben = ServerKey::new("hub", "ben", "").unwrap().owner();
        for (state, moves) in [
            (RetiredState::Moving, true),
            (RetiredState::Aside, false),
            (RetiredState::Purging, false),
            (RetiredState::Returning, true),
            (RetiredState::Gone, false),
        ] {
            store.set_retired(home.number, state).unwrap();
            assert_eq!(store.is_home_moving(&ana).unwrap(), moves, "{state:?}");
            assert!(!store.is_home_moving(&ben).unwrap());
        }
        // Over a restart, too.
        drop(store);
        let store = Store::open(&path).unwrap();
        assert!(store.retired().unwrap().is_empty());
        let second = store.disk_identity(&ana, RANGE).unwrap().uid;
        assert_eq!(second, first + 1);
        let again = store.retire(&ana, None).unwrap().unwrap();
        store.set_retired(again.number, RetiredState::Returning).unwrap();
        store.reinstate(&again).unwrap();
        assert!(store.retired().unwrap().is_empty() && store.identity_of(&ana).unwrap().is_some());
        assert_eq!(store.disk_identity(&ana, RANGE).unwrap().uid, second);
        // Nobody is given two.
        assert!(store.reinstate(&again).is_err());
    }
}
