//! The launcher: takes requests from a hub, decides by root-owned policy, and
//! runs each user's server in a sandbox.
//!
//! Rooms, in the direction of calls: [`cli`] and [`api`] → [`launch`] →
//! {[`policy`], [`audit`], [`home`], [`network`], [`image`], [`store`]} → [`host`].
//! [`bench`] says what a benchmark's report is, and calls nobody.
//! Siblings do not call each other. Only `api` and the CLI's client know the
//! wire's transport; system calls and commands live in `host` alone.

pub mod api;
pub mod audit;
mod bench;
pub mod boot;
pub mod cli;
pub mod config;
mod config_check;
pub mod config_images;
mod config_metrics;
pub mod config_pool;
pub mod config_reload;
pub mod config_runtimes;
pub mod doctor;
mod failpoint;
pub mod home;
pub mod host;
pub mod image;
pub mod launch;
pub mod names;
pub mod network;
pub mod node_runtimes;
pub mod policy;
pub mod quantity;
pub mod repair;
mod say;
pub mod self_test;
pub mod store;
pub mod telemetry;
pub mod tried;
