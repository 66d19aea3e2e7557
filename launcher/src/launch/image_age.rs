//! Images that nobody has used for long are removed: `image_store.remove_unused_after_days`.
//!
//! How long an image has been seen unused is counted in a file, look by look, by the
//! monotonic clock: no jump of the wall clock, and no time while the launcher was away,
//! removes anything early. The file may be lost: then the time begins anew. Must never
//! remove what the configuration names or a live sandbox is made of: that is asked again,
//! under the mark, by the removal itself.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use adrastea_runtimes::engine::{EngineError, EngineImage};

use super::{Launcher, images::ImageError, lock};
use crate::host::directories;

/// For how many seconds which image has been seen unused; by reference and digest.
type Ages = BTreeMap<String, u64>;

/// Adds what has `passed` since the last look to those images that are unused now as they
/// were then, and tells which of them have been for at least `keep`.
fn due<'image>(
    ages: &mut Ages,
    unused: &'image [EngineImage],
    passed: Duration,
    keep: Duration,
) -> Vec<&'image EngineImage> {
    let name = |image: &EngineImage| format!("{}@{}", image.reference, image.digest);
    let before = std::mem::take(ages);
    let mut due = Vec::new();
    for image in unused {
        let age = before.get(&name(image)).map_or(0, |age| age.saturating_add(passed.as_secs()));
        ages.insert(name(image), age);
        if age >= keep.as_secs() {
            due.push(image);
        }
    }
    due
}

impl Launcher {
    /// Looks which images are unused, and removes those that have been for too long.
    pub async fn tend_images(&self) -> Result<(), ImageError> {
        let Some(keep) = self.config().image_store.unused_for() else { return Ok(()) };
        let unused = self.prune_images(true).await?;
        // Whole seconds: what is left of the last one is counted at the next look.
        let passed = {
            let mut looked = lock(&self.images.looked);
            let now = Instant::now();
            let passed = looked.map_or(0, |last| now.duration_since(last).as_secs());
            *looked = Some(looked.map_or(now, |last| last + Duration::from_secs(passed)));
            Duration::from_secs(passed)
        };
        let path = self.layout.image_ages();
        let known: Ages = fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let mut ages = known.clone();
        let due = due(&mut ages, &unused, passed, keep);
        if ages != known {
            let text = serde_json::to_vec(&ages).unwrap_or_default();
            directories::write_atomically(&path, &text, 0o600)?;
        }
        for image in due {
            let days = keep.as_secs() / (24 * 60 * 60);
            match self.remove_image(&image.reference, false).await {
                Ok(()) => tracing::info!(
                    reference = image.reference,
                    digest = image.digest,
                    "removed an image that nobody has used for {days} days (image_store.remove_unused_after_days)"
                ),
                Err(
                    ImageError::InUse { .. } | ImageError::Engine(EngineError::ImageMissing { .. }),
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

    fn image(reference: &str, digest: &str) -> EngineImage {
        EngineImage {
            reference: reference.into(),
            digest: digest.into(),
            layers: Vec::new(),
            environment: Vec::new(),
            size_bytes: 0,
        }
    }

    #[test]
    fn only_what_was_unused_all_the_time_is_due() {
        let (old, new) = (image("old", "sha256:1"), image("new", "sha256:2"));
        let (alone, both) = ([old.clone()], [old.clone(), new]);
        let mut ages = Ages::new();
        // However long nobody looked before the first look.
        assert!(due(&mut ages, &alone, 1000 * DAY, KEEP).is_empty());
        assert!(due(&mut ages, &both, 29 * DAY, KEEP).is_empty());
        assert_eq!(due(&mut ages, &both, DAY, KEEP), [&old]);
        // Used in between: the time begins anew.
        assert_eq!(due(&mut ages, &alone, DAY, KEEP), [&old]);
        assert_eq!(due(&mut ages, &both, 29 * DAY, KEEP), [&old]);
        assert_eq!(due(&mut ages, &both, 30 * DAY, KEEP).len(), 2);
        // Another image under the same name is another one.
        let replaced = [image("old", "sha256:3")];
        assert!(due(&mut ages, &replaced, 60 * DAY, KEEP).is_empty());
        assert_eq!(ages.len(), 1, "what is not there is forgotten");
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let unused = [image("old", "sha256:1")];
        let mut ages = Ages::new();
        // Each life of a launcher begins with a look at which nothing has passed.
        for _ in 0..29 {
            assert!(due(&mut ages, &unused, Duration::ZERO, KEEP).is_empty());
            assert!(due(&mut ages, &unused, DAY, KEEP).is_empty());
        }
        assert_eq!(due(&mut ages, &unused, DAY, KEEP).len(), 1);
    }
}
