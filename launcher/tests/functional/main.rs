//! What the launcher promises about starts, stops, failures and restarts, tried
//! without root: a fake engine, a stand-in ground, and the real store, registry,
//! keeper, policy and wire between them.
//!
//! Proves no promise about walls: nothing here is a sandbox.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod diary;
mod engine;
mod exits;
mod faults;
mod ground;
mod history;
mod inits;
mod order;
mod policy;
mod requests;
mod restarts;
mod secrets;
mod stops;
mod streams;
mod wire;
mod world;
