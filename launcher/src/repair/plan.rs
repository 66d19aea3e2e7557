//! What a repair will do, decided from what was found. Pure.
//!
//! Where ledger and home disagree about a number, the home is right: the files are
//! what the number is for. A number that anybody ever had, or may have had, is not
//! given to anybody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use crate::{
    home::OwnedHome,
    names,
    store::{
        SandboxState,
        examine::{Examined, Finding, IdentityRow, SandboxRow},
        rebuild::Content,
    },
};

/// How many numbers above the highest known one are left out, in case rows of users
/// without a home were lost.
const GAP: u64 = 10_000;

/// Everything a repair goes by.
pub struct Found {
    /// What could be read of the ledger, if there is one.
    pub examined: Option<Examined>,
    pub homes: Vec<OwnedHome>,
    /// Sandboxes of which something lies in the run directory.
    pub present: Vec<String>,
    /// The configured disk ids.
    pub ids: RangeInclusive<u32>,
    /// Seconds since the epoch.
    pub now: u64,
}

#[derive(Debug, Default)]
pub struct Plan {
    /// The new ledger; none if the present one can stay.
    pub rebuild: Option<Content>,
    /// Homes whose numbers become known again.
    pub adopted: Vec<OwnedHome>,
    lines: Vec<String>,
}

impl Plan {
    pub fn is_needed(&self) -> bool {
        self.rebuild.is_some() || !self.adopted.is_empty()
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.clone()
    }

    fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    pub fn of(found: Found) -> Self {
        let mut plan = Self::default();
        let Found { examined, homes, present, ids, now } = found;
        // Those that are set aside have other names, and numbers that are taken all the same.
        let everywhere: Vec<_> = homes.iter().map(|home| home.uid).collect();
        let homes: Vec<_> =
            homes.into_iter().filter(|home| names::is_on_disk(&home.name_on_disk)).collect();
        let (lost, examined) = (examined.is_none(), examined.unwrap_or_default());
        if lost && homes.is_empty() {
            plan.say("it is not there, and there is no home: nothing to mend");
            return plan;
        }
        if lost {
            plan.say("it is not there");
        }
        for Finding { at, problem } in &examined.findings {
            plan.say(format!("damaged: {at}: {problem}"));
        }
        let damaged = lost || !examined.findings.is_empty();
        let saved = (examined.identities.len(), examined.generations.len());
        plan.say(format!(
            "{} identities, {} servers' generations and {} sandboxes can be read",
            saved.0,
            saved.1,
            examined.sandboxes.len()
        ));
        let identities = plan.identities(examined.identities, &homes, &ids, damaged);
        if !damaged {
            if !plan.is_needed() {
                plan.say("it is sound, and knows every home: nothing to mend");
            }
            return plan;
        }

        let taken = identities.iter().map(|row| row.id);
        let taken = taken
            .chain(everywhere)
            .chain(examined.retired.iter().map(|home| home.id))
            .filter(|id| ids.contains(id));
        let taken = taken.map(u64::from);
        let counted = |name: &str| {
            let counters = examined.counters.iter();
            counters.filter(|(counter, _)| counter == name).map(|(_, value)| *value).max()
        };
        let highest =
            taken.chain(counted("highest_disk_id")).max().unwrap_or((*ids.start()).into());
        let highest = highest.saturating_add(GAP).min((*ids.end()).into());
        plan.say(format!("new users will get disk ids above {highest}"));
        // Milliseconds: nobody starts a server a thousand times a second.
        let generation = now.saturating_mul(1000);
        plan.say(format!(
            "servers whose count of starts is lost will count on from {generation}, so that no hub takes a new server for an old one"
        ));
        let mut counters: BTreeMap<String, u64> = ["run_range", "address_index"]
            .into_iter()
            .filter_map(|name| Some((name.into(), counted(name)?)))
            .collect();
        counters.insert("highest_disk_id".into(), highest);
        counters.insert("first_generation".into(), generation);

        let sandboxes = plan.sandboxes(examined.sandboxes, &present);
        let generations: BTreeMap<_, _> =
            examined.generations.into_iter().map(|row| (row.key.clone(), row)).collect();
        plan.say(
            "the old file, with -wal and -shm, will be moved to launcher.sqlite.damaged-…; nothing is deleted",
        );
        plan.rebuild = Some(Content {
            identities,
            generations: generations.into_values().collect(),
            sandboxes,
            counters: counters.into_iter().collect(),
            retired: examined.retired,
        });
        plan
    }

    /// The identities that will be known; each home's own number first.
    fn identities(
        &mut self,
        rows: Vec<IdentityRow>,
        homes: &[OwnedHome],
        ids: &RangeInclusive<u32>,
        damaged: bool,
    ) -> Vec<IdentityRow> {
        let mut owned: BTreeMap<u32, usize> = BTreeMap::new();
        for home in homes {
            *owned.entry(home.uid).or_default() += 1;
        }
        let mut known: BTreeMap<String, IdentityRow> = BTreeMap::new();
        let mut numbers: BTreeSet<u32> = BTreeSet::new();
        for row in rows {
            if numbers.contains(&row.id) || known.contains_key(&row.on_disk) {
                self.say(format!("identity {} (id {}): there is another one of that name or number; it is left out", row.on_disk, row.id));
                continue;
            }
            numbers.insert(row.id);
            known.insert(row.on_disk.clone(), row);
        }
        for home in homes {
            let OwnedHome { name_on_disk: name, uid, gid } = home;
            let sound = uid == gid && ids.contains(uid) && owned[uid] == 1;
            let present = known.get(name).map(|row| row.id);
            if present == Some(*uid) || (*uid, *gid) == (0, 0) {
                continue;
            }
            if !sound {
                self.say(format!(
                    "home {name} belongs to {uid}:{gid}, which is no single user's number here: it is left alone, and its user is refused until an administrator decides"
                ));
                continue;
            }
            if let Some(present) = present {
                if !damaged || numbers.contains(uid) {
                    self.say(format!("home {name} belongs to {uid}, but the ledger says {present}: both are left alone"));
                    continue;
                }
                self.say(format!("identity {name}: its number becomes {uid}, as its home has it (the ledger says {present})"));
                if let Some(row) = known.get_mut(name) {
                    row.id = *uid;
                }
                // The former number stays out of use.
                numbers.insert(*uid);
                continue;
            }
            let holder = known.values().find(|row| row.id == *uid);
            match holder.map(|row| (row.on_disk.clone(), row.owner.is_none())) {
                // A damaged row with this number, and the home says whose number it is.
                Some((doubtful, true)) if damaged => {
                    known.remove(&doubtful);
                }
                Some((other, _)) => {
                    self.say(format!("home {name} belongs to {uid}, which is the number of {other}: it is left alone"));
                    continue;
                }
                None => {}
            }
            self.say(format!("identity {name}: rebuilt from its home, which belongs to {uid}; its user is found again at the next start"));
            numbers.insert(*uid);
            self.adopted.push(home.clone());
            let row = IdentityRow { on_disk: name.clone(), owner: None, id: *uid, created_at: 0 };
            known.insert(name.clone(), row);
        }
        known.into_values().collect()
    }

    /// The sandboxes that the next launcher will know, and what becomes of all of them.
    fn sandboxes(&mut self, rows: Vec<SandboxRow>, present: &[String]) -> Vec<SandboxRow> {
        let (mut kept, mut live, mut taken) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for row in rows {
            let record = &row.record;
            let (id, key) = (&record.id, &record.key);
            let is_live = record.state != SandboxState::Gone;
            let held = [
                row.run_range.map(|number| (0, number)),
                row.address_index.map(|number| (1, number)),
            ];
            let twice = held.iter().flatten().any(|number| taken.contains(number));
            if twice || (is_live && live.contains(key)) {
                self.say(format!("sandbox {id} of {key}: another one has its server or its leases; the next launcher removes it"));
                continue;
            }
            taken.extend(held.into_iter().flatten());
            if is_live {
                live.insert(key.clone());
            }
            if record.state == SandboxState::Running {
                self.say(format!("sandbox {id} of {key}: its row is whole; if it runs, the next launcher takes it over, as it is"));
            } else if is_live || row.run_range.is_some() {
                self.say(format!("sandbox {id} of {key}: was on its way; the next launcher removes what is left of it"));
            }
            kept.push(row);
        }
        for id in present {
            if !kept.iter().any(|row| row.record.id.as_str() == id) {
                self.say(format!("sandbox {id}: something of it is there, but not its row; the next launcher ends it and removes what is left; its user's home is not touched"));
            }
        }
        kept
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const IDS: RangeInclusive<u32> = 70_000..=90_000;

    fn name(letter: char) -> String {
        format!("u-{}", letter.to_string().repeat(52))
    }

    fn home(letter: char, uid: u32) -> OwnedHome {
        OwnedHome { name_on_disk: name(letter), uid, gid: uid }
    }

    fn row(letter: char, id: u32, known: bool) -> IdentityRow {
        let owner = known.then(|| ("hub".to_owned(), letter.to_string()));
        IdentityRow { on_disk: name(letter), owner, id, created_at: 1 }
    }

    fn plan(rows: Vec<IdentityRow>, damaged: bool, homes: Vec<OwnedHome>) -> Plan {
        let finding = Finding { at: "steps, s".into(), problem: "`dance` is no step".into() };
        let findings = if damaged { vec![finding] } else { Vec::new() };
        let examined = Examined { identities: rows, findings, ..Examined::default() };
        Plan::of(Found { examined: Some(examined), homes, present: Vec::new(), ids: IDS, now: 7 })
    }

    fn numbers(plan: &Plan) -> Vec<(String, u32)> {
        let rows = &plan.rebuild.as_ref().unwrap().identities;
        rows.iter().map(|row| (row.on_disk.clone(), row.id)).collect()
    }

    #[test]
    fn nothing_is_done_where_nothing_is_wrong() {
        let sound = plan(vec![row('a', 70_000, true)], false, vec![home('a', 70_000)]);
        assert!(!sound.is_needed(), "{:?}", sound.lines);
        let empty =
            Found { examined: None, homes: Vec::new(), present: Vec::new(), ids: IDS, now: 7 };
        assert!(!Plan::of(empty).is_needed());
    }

    #[test]
    fn a_sound_ledger_learns_of_homes_and_is_not_moved() {
        let plan =
            plan(vec![row('a', 70_000, true)], false, vec![home('a', 70_000), home('b', 70_009)]);
        assert!(plan.rebuild.is_none());
        assert_eq!(plan.adopted, [home('b', 70_009)]);
    }

    #[test]
    fn homes_outrank_a_damaged_ledger_and_nobody_gets_a_number_that_was_taken() {
        let rows = vec![
            row('a', 70_000, true),
            // Its number was damaged: the home has another one.
            row('b', 70_777, true),
            // Its name was damaged: the home of that number has another one.
            row('x', 70_003, false),
            // A user without a home.
            row('d', 70_900, true),
        ];
        let homes = vec![home('a', 70_000), home('b', 70_001), home('c', 70_003)];
        let plan = plan(rows, true, homes);
        let expected = [('a', 70_000), ('b', 70_001), ('c', 70_003), ('d', 70_900)];
        assert_eq!(numbers(&plan), expected.map(|(letter, id)| (name(letter), id)));
        let counters = &plan.rebuild.as_ref().unwrap().counters;
        assert!(counters.contains(&("highest_disk_id".into(), 70_900 + GAP)), "{counters:?}");
        assert!(counters.contains(&("first_generation".into(), 7000)), "{counters:?}");
    }

    #[test]
    fn a_home_of_a_number_that_fits_nobody_is_left_alone_and_told() {
        let strange = OwnedHome { gid: 5, ..home('c', 70_005) };
        let homes =
            vec![home('a', 4), home('b', 100_000), strange, home('d', 70_007), home('e', 70_007)];
        let plan = plan(Vec::new(), true, homes);
        assert!(numbers(&plan).is_empty(), "{:?}", plan.lines);
        assert_eq!(plan.lines.iter().filter(|line| line.contains("left alone")).count(), 5);
    }

    #[test]
    fn two_homes_of_one_number_do_not_take_it_from_its_owner() {
        let homes = vec![home('a', 70_000), home('b', 70_000)];
        let plan = plan(vec![row('a', 70_000, true)], true, homes);
        assert_eq!(numbers(&plan), [(name('a'), 70_000)]);
    }
}
