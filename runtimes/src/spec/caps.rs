//! Capabilities: none, in all five sets. There is nothing to configure here.

use std::collections::HashSet;

use oci_spec::runtime::{LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::SpecError;

/// Five empty sets: an empty bounding set also empties what a set-uid file could give.
pub fn none() -> Result<LinuxCapabilities, SpecError> {
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(HashSet::new())
        .effective(HashSet::new())
        .inheritable(HashSet::new())
        .permitted(HashSet::new())
        .ambient(HashSet::new())
        .build()?)
}
