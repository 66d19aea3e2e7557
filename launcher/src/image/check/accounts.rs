//! Who an image's own user is: a suggestion for a profile's `user`, and no more.

use super::layers::Layers;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// The account that the image's configuration names (`jovyan`, `1000`, `1000:100`, …).
pub fn of_image(layers: &Layers, user: &str) -> Option<Account> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let passwd = layers.text("/etc/passwd").unwrap_or_default();
    let mut account = match find(&passwd, user) {
        Some(account) => account,
        None => Account {
            name: "jovyan".into(),
            uid: user.parse().ok()?,
            gid: user.parse().ok()?,
            home: "/home/jovyan".into(),
        },
    };
    if !group.is_empty() {
        account.gid = group.parse().ok().or_else(|| group_id(layers, group))?;
    }
    Some(account)
}

fn find(passwd: &str, user: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        (*name == user || *uid == user).then_some(())?;
        Some(Account {
            name: (*name).to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: (*home).to_owned(),
        })
    })
}

fn group_id(layers: &Layers, group: &str) -> Option<u32> {
    layers.text("/etc/group")?.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        (*fields.first()? == group).then(|| fields.get(2)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_by_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\njovyan:x:1000:100:,,,:/home/jovyan:/bin/bash\n";
        let account =
            Account { name: "jovyan".into(), uid: 1000, gid: 100, home: "/home/jovyan".into() };
        assert_eq!(find(passwd, "jovyan"), Some(account.clone()));
        assert_eq!(find(passwd, "1000"), Some(account));
        assert_eq!(find(passwd, "nobody"), None);
    }
}
