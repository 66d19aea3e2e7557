//! A watcher in a random history: it follows one hub's servers, sleeps now and
//! then, comes back with its token, and judges every change it is told.

use std::{collections::BTreeMap, sync::Arc};

use adrastea::launch::Launcher;
use adrastea_proto::v1::{self, Phase};

type Server = (String, String);

/// What is believed of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct News {
    sandbox: String,
    generation: u64,
    phase: Phase,
    /// Whether the cause of its end is known.
    ended: bool,
}

pub struct Witness {
    hub: String,
    token: String,
    belief: BTreeMap<Server, News>,
    pub resumed: u32,
    pub whole: u32,
    pub wrong: Vec<String>,
}

fn read(sandbox: &v1::Sandbox) -> (Server, News) {
    let key = sandbox.key.clone().unwrap();
    let news = News {
        sandbox: sandbox.sandbox_id.clone(),
        generation: sandbox.generation,
        phase: sandbox.phase(),
        ended: sandbox.exit.is_some(),
    };
    ((key.user, key.server), news)
}

impl Witness {
    pub fn new(hub: &str) -> Self {
        Self {
            hub: hub.into(),
            token: String::new(),
            belief: BTreeMap::new(),
            resumed: 0,
            whole: 0,
            wrong: Vec::new(),
        }
    }

    /// Catches up as Watch does, and compares with the truth of this moment.
    pub fn look(&mut self, launcher: &Arc<Launcher>) {
        let place = launcher.feed.place(&self.hub, &self.token);
        let resumed = place.filter(|place| launcher.feed.after(*place).is_some());
        let mut place = if let Some(place) = resumed {
            self.resumed += 1;
            place
        } else {
            let (place, present) = launcher.snapshot(&self.hub);
            self.belief = present.iter().map(read).collect();
            self.whole += 1;
            place
        };
        while let Some(changes) = launcher.feed.after(place).filter(|changes| !changes.is_empty()) {
            for change in changes {
                if change.number != place + 1 {
                    self.wrong.push(format!("change {} after {place}", change.number));
                }
                place = change.number;
                if change.sandbox.key.as_ref().is_some_and(|key| key.hub == self.hub) {
                    self.hear(&change.sandbox);
                }
            }
        }
        self.token = launcher.feed.token(&self.hub, place);
        let truth: BTreeMap<_, _> = launcher.snapshot(&self.hub).1.iter().map(read).collect();
        // What ended long ago is forgotten without a word.
        self.belief.retain(|server, news| news.phase != Phase::Gone || truth.contains_key(server));
        if self.belief != truth {
            self.wrong.push(format!("believed {:?}, true is {truth:?}", self.belief));
        }
    }

    fn hear(&mut self, sandbox: &v1::Sandbox) {
        let (server, news) = read(sandbox);
        if let Some(before) = self.belief.get(&server) {
            let fine = if before.sandbox == news.sandbox {
                // Forward only, and never the same news twice.
                before.phase <= news.phase && *before != news && (news.ended || !before.ended)
            } else {
                // At most one lives.
                before.phase == Phase::Gone && before.generation < news.generation
            };
            if !fine {
                self.wrong.push(format!("{server:?}: {before:?} was followed by {news:?}"));
            }
        }
        if (news.phase == Phase::Gone) != news.ended && news.phase != Phase::Stopping {
            self.wrong.push(format!("{server:?} has no cause, or one too early: {news:?}"));
        }
        self.belief.insert(server, news);
    }
}
