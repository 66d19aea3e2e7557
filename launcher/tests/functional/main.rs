//! What the launcher promises about starts, stops, failures and restarts, tried
//! without root: a fake engine, a stand-in ground, and the real store, registry,
//! keeper, policy and wire between them.
//!
//! Proves no promise about walls: nothing here is a sandbox.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod audit;
mod causes;
mod diary;
mod engine;
mod exits;
mod explain;
mod faults;
mod forget;
mod ground;
mod history;
mod inits;
mod named_runtime;
mod order;
mod policy;
mod pool;
mod queue;
mod requests;
mod restarts;
mod resume;
mod secrets;
mod stops;
mod streams;
mod wire;
mod witness;
mod world;
