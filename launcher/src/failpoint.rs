//! Named points at which tests kill the launcher, as a power cut would. Without
//! the feature `failpoints` this is nothing at all.

/// The point `<step>-<moment>`. Configured with `return`, the launcher dies here by SIGKILL.
#[cfg(feature = "failpoints")]
pub fn hit(step: &str, moment: &str) {
    let name = format!("{step}-{moment}");
    if let Some(()) = fail::eval(&name, |_| ()) {
        tracing::warn!(name, "failpoint: dying");
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn hit(_step: &str, _moment: &str) {}
