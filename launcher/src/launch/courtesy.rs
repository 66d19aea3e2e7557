//! Starts give way to stops: while a server is on its way out, the next start waits a
//! moment before it gives the engine work. Somebody waits for every stop, it is
//! short, and it makes room; a start is long whatever one does.
//!
//! Must never hold a start up for long: servers that end all the time, or one whose
//! end is stuck, would keep everybody else from starting.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

/// The longest a start gives way.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many servers are on their way out.
#[derive(Debug, Default)]
pub struct Courtesy(watch::Sender<usize>);

/// A server on its way out, until dropped.
pub struct Leaving<'courtesy>(&'courtesy Courtesy);

impl Courtesy {
    pub fn leaving(&self) -> Leaving<'_> {
        self.0.send_modify(|count| *count += 1);
        Leaving(self)
    }

    /// Returns when nobody is on the way out, or soon.
    pub async fn give_way(&self) {
        let mut leaving = self.0.subscribe();
        // Whether nobody leaves or patience has run out: it goes on.
        let _ = timeout(PATIENCE, leaving.wait_for(|count| *count == 0)).await;
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn starts_wait_for_those_who_leave_and_not_for_long() {
        let courtesy = Courtesy::default();
        let since = Instant::now();
        courtesy.give_way().await;
        assert_eq!(since.elapsed(), Duration::ZERO);

        let (one, two) = (courtesy.leaving(), courtesy.leaving());
        let both = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(one);
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(two);
        };
        tokio::join!(courtesy.give_way(), both);
        assert_eq!(since.elapsed(), Duration::from_millis(200));

        let _stuck = courtesy.leaving();
        let since = Instant::now();
        courtesy.give_way().await;
        assert_eq!(since.elapsed(), PATIENCE);
    }
}
