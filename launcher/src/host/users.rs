//! Host users and groups by name, as the node's own database (NSS) has them. Groups are only
//! looked up by names from root-owned configuration.

use nix::unistd::{Group, User};

/// Why a host user or group cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("the host has no {kind} `{name}`")]
    Missing { kind: &'static str, name: String },
    #[error("failed to look up {kind} `{name}`")]
    Failed {
        kind: &'static str,
        name: String,
        #[source]
        source: nix::errno::Errno,
    },
}

/// A uid by the user's name; a number stands for itself.
pub fn uid_of(name: &str) -> Result<u32, LookupError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    User::from_name(name)
        .map_err(|source| LookupError::Failed { kind: "user", name: name.into(), source })?
        .map(|user| user.uid.as_raw())
        .ok_or_else(|| LookupError::Missing { kind: "user", name: name.into() })
}

/// A gid by the group's name; a number stands for itself.
pub fn gid_of(name: &str) -> Result<u32, LookupError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    Group::from_name(name)
        .map_err(|source| LookupError::Failed { kind: "group", name: name.into(), source })?
        .map(|group| group.gid.as_raw())
        .ok_or_else(|| LookupError::Missing { kind: "group", name: name.into() })
}

/// Whether the node's database has this user in this group, as its first or a further one.
pub fn is_member(user: &str, group: &str) -> Result<bool, LookupError> {
    let failed = |kind, name: &str| {
        let name = name.to_owned();
        move |source| LookupError::Failed { kind, name, source }
    };
    let Some(group) = Group::from_name(group).map_err(failed("group", group))? else {
        return Ok(false);
    };
    if group.mem.iter().any(|member| member == user) {
        return Ok(true);
    }
    let known = User::from_name(user).map_err(failed("user", user))?;
    Ok(known.is_some_and(|user| user.gid == group.gid))
}
