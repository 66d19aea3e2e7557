//! At most one live sandbox per server, whatever a hub repeats.

use std::{collections::BTreeSet, sync::Arc};

use adrastea_proto::v1::StartRequest;
use adrastea_tests::{Instance, Suite, client::request};
use anyhow::ensure;
use tonic::Code;

use crate::ask::refused;

async fn live_of(instance: &Instance, user: &str) -> anyhow::Result<Vec<String>> {
    let live = instance.live().await?.into_iter();
    Ok(live
        .filter(|one| one.key.as_ref().is_some_and(|key| key.user == user))
        .map(|one| one.sandbox_id)
        .collect())
}

pub fn add(suite: &mut Suite) {
    suite.shared(
        "idempotence::one_request_fifty_times_at_once_is_one_sandbox",
        |instance| async move {
            let request = request("fifty");
            let mut starts = tokio::task::JoinSet::new();
            for _ in 0..50 {
                let (instance, request) = (Arc::clone(&instance), request.clone());
                starts.spawn(async move { instance.start_with(request).await });
            }
            let mut ids = BTreeSet::new();
            while let Some(started) = starts.join_next().await {
                ids.insert(started??.ready.sandbox_id);
            }
            ensure!(ids.len() == 1, "{ids:?}");
            ensure!(live_of(&instance, "fifty").await? == ids.into_iter().collect::<Vec<_>>());
            instance.stop("fifty", "").await.map(|_| ())
        },
    );

    suite.shared(
        "idempotence::a_request_id_with_other_content_is_refused",
        |instance| async move {
            let first = request("reused");
            let ready = instance.start_with(first.clone()).await?;
            let other = StartRequest { arguments: vec!["more".into()], ..first.clone() };
            refused(instance.try_start(other).await, Code::AlreadyExists, &first.request_id)?;
            let secret = StartRequest {
                secret_environment: [("JUPYTERHUB_API_TOKEN".into(), "other".into())].into(),
                ..first.clone()
            };
            refused(instance.try_start(secret).await, Code::AlreadyExists, &first.request_id)?;
            instance.answers("reused").await?;
            ensure!(
                instance.start_with(first).await?.id() == ready.id(),
                "the same request made another sandbox"
            );
            instance.stop("reused", "").await.map(|_| ())
        },
    );

    suite.shared("idempotence::a_newer_request_replaces_the_older_server", |instance| async move {
        let mut generation = 0;
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let ready = instance.start("replaced").await?;
            ensure!(
                ready.ready.generation > generation,
                "{} after {generation}",
                ready.ready.generation
            );
            generation = ready.ready.generation;
            ensure!(seen.insert(ready.id().to_owned()));
            ensure!(live_of(&instance, "replaced").await? == [ready.id()]);
            instance.answers("replaced").await?;
        }
        instance.stop("replaced", "").await.map(|_| ())
    });

    suite.shared(
        "idempotence::many_newer_requests_at_once_leave_one_server",
        |instance| async move {
            let mut starts = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let instance = Arc::clone(&instance);
                starts.spawn(async move { instance.try_start(request("crowd")).await });
            }
            while let Some(started) = starts.join_next().await {
                // Replaced by another of the crowd is a fine end; an error is not.
                started??;
            }
            ensure!(live_of(&instance, "crowd").await?.len() == 1);
            instance.answers("crowd").await?;
            instance.stop("crowd", "").await.map(|_| ())
        },
    );
}
