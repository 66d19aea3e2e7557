//! The two nftables tables: the router's and the host's, as texts (pure), and
//! their elements and connections, as netlink messages (pure).
//!
//! Nothing here touches the kernel.

pub mod connections;
pub mod elements;
pub mod host;
pub mod message;
pub mod router;

/// A transaction that puts a table in place of the one of that name, if any.
/// The kernel takes it as a whole: no packet sees neither of the two.
pub fn replacement(table: &str, text: &str) -> String {
    format!("{}{text}", removal(table))
}

/// A transaction that removes a table and tolerates its absence.
pub fn removal(table: &str) -> String {
    // Adding first, as `delete` fails on what is not there.
    format!("add table inet {table}\ndelete table inet {table}\n")
}
