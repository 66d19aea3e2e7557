//! Seven namespaces, none of them the host's: two are made beforehand and
//! joined by path (so that the network is closed before any code runs), five
//! are made by the runtime and owned by the sandbox's user namespace.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType};

use super::SpecError;
use crate::plan::Plan;

pub fn all(plan: &Plan) -> Result<Vec<LinuxNamespace>, SpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    [
        (User, Some(&plan.user_namespace)),
        (Network, Some(&plan.network_namespace)),
        (Pid, None),
        (Ipc, None),
        (Uts, None),
        (Mount, None),
        (Cgroup, None),
    ]
    .into_iter()
    .map(|(kind, path)| {
        let namespace = LinuxNamespaceBuilder::default().typ(kind);
        Ok(match path {
            Some(path) => namespace.path(path),
            None => namespace,
        }
        .build()?)
    })
    .collect()
}
