//! What the root tests share: a launcher of their own per [`Instance`], in a
//! network namespace of its own, with a small image and a snapshot of what it
//! shares with the host.
//!
//! ```text
//! let suite = Suite::new();
//! suite.trial("name", Options::default(), |instance| async move {
//!     let ready = instance.start("ana").await?;
//!     anyhow::ensure!(instance.get(ready.address(), "/").is_ok_and(|(code, _)| code == 200));
//!     Ok(())
//! })
//! ```
//!
//! Must never touch the host's own firewall, links or routes, signal a process
//! it did not start, or pass where it could not look.

pub mod claimed;
pub mod client;
pub mod column;
pub mod config;
pub mod contract;
pub mod image;
pub mod instance;
pub mod machines;
pub mod namespace;
pub mod place;
pub mod registry;
pub mod remains;
pub mod suite;

pub use client::{Output, Ready, Started};
pub use config::Options;
pub use instance::Instance;
pub use namespace::{Namespace, User};
pub use suite::Suite;
