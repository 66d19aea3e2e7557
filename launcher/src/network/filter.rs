//! The router's elements and the two tables in the kernel: changing, listing
//! and comparing. The messages themselves are made in [`super::nft`].
//!
//! Calls are short (a tenth of a millisecond each) and block.

use std::{
    collections::BTreeSet,
    io,
    net::Ipv4Addr,
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use adrastea_runtimes::plan::SandboxId;

use super::{
    Gate, NetworkError,
    nft::{connections, elements, router},
};
use crate::host::{HostError, namespaces, nfnetlink::NetfilterSocket};

/// A conversation with the packet filter of one namespace.
#[derive(Debug)]
pub struct Filter(Mutex<NetfilterSocket>);

/// What tells a table from any other, elements aside.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TableMark(Vec<Vec<u8>>);

fn failed(verb: &'static str, thing: &impl ToString) -> impl FnOnce(io::Error) -> NetworkError {
    let thing = thing.to_string();
    move |source| NetworkError::Kernel { verb, thing, source: Box::new(source) }
}

impl Filter {
    /// For the caller's own namespace.
    pub fn here() -> Result<Self, NetworkError> {
        let socket = NetfilterSocket::open().map_err(failed("open", &"nfnetlink"))?;
        Ok(Self(Mutex::new(socket)))
    }

    /// For another namespace.
    pub fn inside(namespace: impl AsFd) -> Result<Self, NetworkError> {
        namespaces::in_network_namespace(namespace, Self::here)
            .map_err(|source| HostError::new("enter namespace", "router", source))?
    }

    fn socket(&self) -> MutexGuard<'_, NetfilterSocket> {
        // The socket has no state that a panic could leave half done: stale
        // answers are told by their number.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add_closed(&self, id: &SandboxId, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.socket()
            .transact(&elements::attach(id, address))
            .map_err(failed("add rules of sandbox", id))
    }

    pub fn open(&self, id: &SandboxId, profile: &str) -> Result<(), NetworkError> {
        let messages = elements::open(id, &router::profile_chain(profile));
        self.socket().transact(&messages).map_err(failed("open egress of sandbox", id))
    }

    /// Takes away all elements of a sandbox, whatever its address was. Never stops early.
    pub fn remove(&self, id: &SandboxId) -> Vec<NetworkError> {
        let mut errors = Vec::new();
        // What lets packets through goes first.
        for set in [elements::OPENED, elements::EGRESS, elements::MEMBERS] {
            let found = match self.elements(set) {
                Ok(found) => found,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            for element in found.iter().filter(|element| element.sandbox().as_ref() == Some(id)) {
                // Nothing passes any more; before the address is forgotten, its connections are.
                if let (elements::MEMBERS, Some(address)) = (set, element.address()) {
                    errors.extend(self.forget_connections(address).err());
                }
                let outcome = self.socket().transact(&[elements::delete(set, &element.key)]);
                let outcome = crate::host::tolerate_absence(outcome);
                errors.extend(outcome.map_err(failed("remove rules of sandbox", id)).err());
            }
        }
        errors
    }

    fn forget_connections(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        connections::forget(address).iter().try_for_each(|message| {
            // Where there is none, there is nothing to forget.
            crate::host::tolerate_absence(self.socket().change(message))
                .map_err(failed("forget connections of", &address))
        })
    }

    /// Every sandbox that has an element.
    pub fn sandboxes(&self) -> Result<BTreeSet<SandboxId>, NetworkError> {
        let mut sandboxes = BTreeSet::new();
        for set in elements::ALL {
            sandboxes.extend(self.elements(set)?.iter().filter_map(elements::Element::sandbox));
        }
        Ok(sandboxes)
    }

    fn elements(&self, set: &str) -> Result<Vec<elements::Element>, NetworkError> {
        let bodies = self.socket().dump(&elements::list(set));
        // No table, no elements.
        let bodies = match bodies {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(failed("list set", &set))?,
        };
        Ok(bodies.iter().flat_map(|body| elements::parse(body)).collect())
    }

    /// Whether exactly the elements of this state are there.
    pub fn verify(
        &self,
        id: &SandboxId,
        address: Ipv4Addr,
        gate: Gate,
        profile: &str,
    ) -> Result<(), NetworkError> {
        let mut socket = self.socket();
        let mut present = |message| match socket.get(&message) {
            Ok(body) => Ok(elements::parse(&body).into_iter().next()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read rules of sandbox", id)(error)),
        };
        if present(elements::member(id, address))?.is_none() {
            return Err(NetworkError::wall("anti-spoof", format!("no element for {address}")));
        }
        let chain = present(elements::egress_of(id))?.and_then(|element| element.chain);
        let planned = router::chain_of(gate, profile);
        if chain.as_deref() != Some(planned.as_str()) {
            return Err(NetworkError::wall(
                "egress",
                format!("the chain is {chain:?}, not `{planned}`"),
            ));
        }
        let opened = present(elements::opened(id))?.is_some();
        if opened != (gate == Gate::Open) {
            return Err(NetworkError::wall("ingress", format!("opened is {opened}")));
        }
        Ok(())
    }

    /// The table as it is now.
    pub fn mark(&self, table: &str) -> Result<TableMark, NetworkError> {
        let mut socket = self.socket();
        let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let mut dump = |message| match socket.dump(&message) {
            Err(error) if absent(&error) => Ok(Vec::new()),
            other => other.map_err(failed("read table", &table)),
        };
        let chains = dump(elements::chains())?;
        let rules = dump(elements::rules(table))?;
        let chains = chains.iter().filter_map(|body| elements::chain_mark(table, body));
        let rules = rules.iter().filter_map(|body| elements::rule_mark(table, body));
        Ok(TableMark(chains.chain(rules).collect()))
    }

    /// The comment of a table, if there is such a table and it has one.
    pub fn comment(&self, table: &str) -> Result<Option<String>, NetworkError> {
        match self.socket().get(&elements::table(table)) {
            Ok(body) => Ok(elements::table_comment(&body)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read table", &table)(error)),
        }
    }
}
