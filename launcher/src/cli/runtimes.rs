//! Lists the runtimes this program knows, from the weakest wall to the strongest, with
//! what each cannot do. Reads no configuration: what this node has is `doctor`'s.

use adrastea_runtimes::Runtime;

use crate::say::say;

pub fn list(names_only: bool) {
    let mut all: Vec<&dyn Runtime> = adrastea_runtimes::all().to_vec();
    all.sort_by_key(|runtime| runtime.strength());
    for runtime in all {
        if names_only {
            say!("{}", runtime.name());
            continue;
        }
        say!("{}: {}", runtime.name(), runtime.description());
        for limitation in runtime.limitations() {
            say!("  cannot: {} ({})", limitation.what, limitation.why);
        }
    }
}
