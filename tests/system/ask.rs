//! Small helpers: requests with a twist, and refusals as their gRPC code.

use adrastea_proto::v1::{self, StartRequest};
use adrastea_tests::client::{key, request};
use anyhow::{Context as _, bail, ensure};
use tonic::{Code, Status};

/// A start with arguments after the profile's command.
pub fn with_arguments(user: &str, arguments: &[&str]) -> StartRequest {
    let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
    StartRequest { arguments, ..request(user) }
}

/// A start of a named server with another profile.
pub fn of_profile(user: &str, server: &str, profile: &str) -> StartRequest {
    StartRequest { key: Some(key(user, server)), profile: profile.into(), ..request(user) }
}

/// The refusal that a call must have ended with.
pub fn refusal<T>(result: anyhow::Result<T>) -> anyhow::Result<Status> {
    match result {
        Ok(_) => bail!("it was not refused"),
        Err(error) => error.downcast::<Status>().context("it ended without a refusal"),
    }
}

/// Checks the code of a refusal and that its text names something.
pub fn refused<T>(result: anyhow::Result<T>, code: Code, naming: &str) -> anyhow::Result<()> {
    let status = refusal(result)?;
    ensure!(status.code() == code, "{code:?} was expected, {status:?} came");
    ensure!(status.message().contains(naming), "`{}` does not name `{naming}`", status.message());
    Ok(())
}

/// Checks reason, text and hint of a failed start.
pub fn failed(failed: &v1::Failed, reason: v1::FailureReason, naming: &str) -> anyhow::Result<()> {
    ensure!(failed.reason() == reason, "{} was expected: {failed:?}", reason.as_str_name());
    ensure!(failed.message.contains(naming), "`{}` does not name `{naming}`", failed.message);
    ensure!(!failed.hint.is_empty(), "no hint: {failed:?}");
    Ok(())
}
