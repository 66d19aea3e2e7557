//! The launcher: takes requests from a hub, decides by root-owned policy, and
//! runs each user's server in a sandbox.
//!
//! Rooms, in the direction of calls: [`cli`] and [`api`] → [`launch`] →
//! {[`policy`], [`home`], [`network`], [`image`], [`store`]} → [`host`].
//! Siblings do not call each other. Only `api` and the CLI's client know the
//! wire's transport; system calls and commands live in `host` alone.

pub mod api;
pub mod boot;
pub mod cli;
pub mod config;
mod config_check;
pub mod doctor;
pub mod home;
pub mod host;
pub mod image;
pub mod launch;
pub mod names;
pub mod network;
pub mod policy;
pub mod quantity;
pub mod store;
