//! In which order starts are worked on, and how many at once. Pure.
//!
//! ```text
//!   join ──> waiting ──admitted──> preparing ──> answering ──> leave
//!                └── given up ─────────┴─────────────┴───────────▲
//! ```
//! Two bounds. *Preparing* costs the node and its engine work, so few do it at
//! once. *Answering* means that the server has been started and is waited for; it
//! costs what the server does. A start that only waits for its server never holds
//! a place that another could prepare in; both together have a bound of their own,
//! or a hundred servers that load at the same time would all be late.
//!
//! Fair per owner (hub and user): next is the owner with the fewest starts under
//! way, then the one that was served longest ago, then the one that asked first.
//! So fifty servers of one user do not hold up anybody else's first. Nobody
//! starves: whoever waits has nothing under way as soon as its own are done.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
};

/// Names one start in the queue. Tickets count in the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Waiting,
    Preparing,
    Answering,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub preparing: usize,
    /// Preparing and answering together.
    pub under_way: usize,
}

#[derive(Debug, Default)]
struct OfOwner {
    waiting: VecDeque<Ticket>,
    under_way: usize,
    /// Counts admissions; 0 before the first.
    served: u64,
}

impl OfOwner {
    /// The smallest is next. None where nothing waits.
    fn rank(&self) -> Option<(usize, u64, Ticket)> {
        Some((self.under_way, self.served, *self.waiting.front()?))
    }
}

#[derive(Debug)]
pub struct FairQueue<O> {
    bounds: Bounds,
    tickets: u64,
    admissions: u64,
    owners: BTreeMap<O, OfOwner>,
    stages: HashMap<Ticket, (O, Stage)>,
    preparing: usize,
    answering: usize,
}

impl<O: Clone + Ord> FairQueue<O> {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            tickets: 0,
            admissions: 0,
            owners: BTreeMap::new(),
            stages: HashMap::new(),
            preparing: 0,
            answering: 0,
        }
    }

    pub fn join(&mut self, owner: O) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.owners.entry(owner.clone()).or_default().waiting.push_back(ticket);
        self.stages.insert(ticket, (owner, Stage::Waiting));
        self.admit();
        ticket
    }

    /// From preparing to answering; in any other stage nothing happens.
    pub fn prepared(&mut self, ticket: Ticket) {
        if let Some((_, stage @ Stage::Preparing)) = self.stages.get_mut(&ticket) {
            *stage = Stage::Answering;
            self.preparing -= 1;
            self.answering += 1;
            self.admit();
        }
    }

    /// From any stage; whoever has left already may do so again.
    pub fn leave(&mut self, ticket: Ticket) {
        let Some((owner, stage)) = self.stages.remove(&ticket) else { return };
        if let Some(of) = self.owners.get_mut(&owner) {
            match stage {
                Stage::Waiting => of.waiting.retain(|waiting| *waiting != ticket),
                Stage::Preparing | Stage::Answering => of.under_way -= 1,
            }
            if of.waiting.is_empty() && of.under_way == 0 {
                self.owners.remove(&owner);
            }
        }
        match stage {
            Stage::Waiting => {}
            Stage::Preparing => self.preparing -= 1,
            Stage::Answering => self.answering -= 1,
        }
        self.admit();
    }

    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    pub fn stage(&self, ticket: Ticket) -> Option<Stage> {
        self.stages.get(&ticket).map(|(_, stage)| *stage)
    }

    /// How many starts will be worked on up to this one, itself included, as far as
    /// is known now. None if it does not wait.
    pub fn place(&self, ticket: Ticket) -> Option<usize> {
        (self.stage(ticket)? == Stage::Waiting).then_some(())?;
        let rehearsed =
            |of: &'_ OfOwner| Some((of.rank()?, of.waiting.iter().copied().skip(1).collect()));
        let mut heap: BinaryHeap<_> = self
            .owners
            .values()
            .filter_map(rehearsed)
            .map(|(rank, later)| Rehearsed { rank: Reverse(rank), later })
            .collect();
        let mut served = self.admissions;
        let mut place = 0;
        while let Some(Rehearsed { rank: Reverse((under_way, _, front)), mut later }) = heap.pop() {
            place += 1;
            if front == ticket {
                return Some(place);
            }
            served += 1;
            if let Some(next) = later.pop_front() {
                heap.push(Rehearsed { rank: Reverse((under_way + 1, served, next)), later });
            }
        }
        None
    }

    fn admit(&mut self) {
        while self.preparing < self.bounds.preparing
            && self.preparing + self.answering < self.bounds.under_way
        {
            let next = self
                .owners
                .values_mut()
                .filter_map(|of| Some((of.rank()?, of)))
                .min_by_key(|(rank, _)| *rank);
            let Some((_, of)) = next else { return };
            let Some(ticket) = of.waiting.pop_front() else { return };
            self.admissions += 1;
            of.served = self.admissions;
            of.under_way += 1;
            self.preparing += 1;
            if let Some((_, stage)) = self.stages.get_mut(&ticket) {
                *stage = Stage::Preparing;
            }
        }
    }
}

/// An owner while the future is rehearsed. Ordered by rank alone.
struct Rehearsed {
    rank: Reverse<(usize, u64, Ticket)>,
    later: VecDeque<Ticket>,
}

impl PartialEq for Rehearsed {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Rehearsed {}

impl PartialOrd for Rehearsed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rehearsed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
