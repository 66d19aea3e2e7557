//! Who is at the other end: the kernel's word (SO_PEERCRED), checked for every
//! request of every connection. Group membership alone opens the socket, and
//! nothing behind it.

use std::collections::BTreeSet;

use tonic::{Request, Status, transport::server::UdsConnectInfo};

/// The host users that may call; root always may.
#[derive(Clone, Debug)]
pub struct Callers(BTreeSet<u32>);

/// A caller the kernel has vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    pub uid: u32,
}

impl Callers {
    pub fn new(uids: impl IntoIterator<Item = u32>) -> Self {
        Self(uids.into_iter().collect())
    }

    fn may_call(&self, uid: u32) -> bool {
        uid == 0 || self.0.contains(&uid)
    }

    /// Lets a request through, with its principal, or refuses it.
    pub fn admit(&self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let uid = request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred)
            .map(|credentials| credentials.uid())
            .ok_or_else(|| Status::permission_denied("the caller's credentials are not known"))?;
        if !self.may_call(uid) {
            tracing::warn!(uid, "refused a caller");
            return Err(Status::permission_denied(format!(
                "host user {uid} may not call this launcher (rule access.hub_users)"
            )));
        }
        request.extensions_mut().insert(Principal { uid });
        Ok(request)
    }
}

/// Only for the host's root.
pub fn require_root<T>(request: &Request<T>) -> Result<(), Status> {
    match request.extensions().get::<Principal>() {
        Some(Principal { uid: 0 }) => Ok(()),
        _ => Err(Status::permission_denied("only the host's root may do this")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_users_and_root_may_call() {
        let callers = Callers::new([990]);
        assert!(callers.may_call(0) && callers.may_call(990));
        assert!(!callers.may_call(991) && !callers.may_call(65534));
        let unknown = callers.admit(Request::new(()));
        assert!(unknown.is_err());
    }
}
