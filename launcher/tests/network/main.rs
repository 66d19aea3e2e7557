//! The network's walls, tried from inside real namespaces, as root.
//!
//! Every test plays on a host of its own: a thread with a fresh network and
//! mount namespace. Nothing outside of it is touched. Refuses without root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod lifecycle;
mod playground;
mod probe;
mod spoofing;
mod walls;
