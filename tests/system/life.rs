//! A server's life: start, answer, log, end with its cause, stop.

use adrastea_tests::Suite;

pub fn add(suite: &mut Suite) {
    suite.shared("a_start_tells_its_progress_and_the_server_answers", |instance| async move {
        let ready = instance.start("ana").await?;
        let phases: Vec<_> = ready.progress.iter().map(|step| step.phase()).collect();
        anyhow::ensure!(phases.is_sorted() && phases.len() >= 5, "{phases:?}");
        anyhow::ensure!(instance.http(ready.address(), "/")?.0 == 200);
        instance.stop("ana", "").await?;
        Ok(())
    });
}
