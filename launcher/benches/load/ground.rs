//! A ground on which nothing is done but the channel's FIFOs: what is measured is the
//! launcher. A stand-in. Proves no promise.

use std::{collections::BTreeMap, fs, io};

use adrastea::{
    host::fifo,
    launch::{Channel, Ground, Refusals, Traces, Waiting, failure::Failure, sandbox::Sandbox},
    store::{RetiredHome, Step},
};
use adrastea_proto::v1::FailureReason;
use adrastea_runtimes::{engine::EngineImage, plan::SandboxId};
use async_trait::async_trait;

pub struct BareGround;

fn failure(error: &io::Error) -> Failure {
    Failure::new(FailureReason::Internal, error.to_string(), "")
}

#[async_trait]
impl Ground for BareGround {
    async fn make(&self, step: Step, sandbox: &Sandbox, _: &EngineImage) -> Result<(), Failure> {
        if step == Step::Directory {
            let made = fs::create_dir_all(sandbox.channel_directory())
                .and_then(|()| fifo::make(&sandbox.stdin()).map_err(io::Error::other))
                .and_then(|()| fifo::make(&sandbox.stdout()).map_err(io::Error::other));
            made.map_err(|error| failure(&error))?;
        }
        Ok(())
    }

    async fn unmake(&self, step: Step, sandbox: &Sandbox) -> Result<(), Failure> {
        if step == Step::Directory {
            fs::remove_dir_all(&sandbox.directory).map_err(|error| failure(&error))?;
        }
        Ok(())
    }

    async fn surround(&self, _: &Sandbox, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn prove(&self, _: &Sandbox, _: &Waiting) -> Result<(), Failure> {
        Ok(())
    }

    async fn prove_again(&self, _: &Sandbox, _: u32) -> Result<(), Failure> {
        Ok(())
    }

    fn hold_back(&self, _: &Sandbox) -> Result<String, Failure> {
        Ok(String::new())
    }

    fn let_go(&self, _: &Sandbox, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn maps_homes(&self) -> Result<(), Failure> {
        Ok(())
    }

    async fn try_home(&self, _: &Sandbox, _: u32, _: &mut Channel) -> Result<(), Failure> {
        Ok(())
    }

    async fn attach_home(&self, _: &Sandbox, _: u32) -> Result<(), Failure> {
        Ok(())
    }

    async fn open_egress(&self, _: &Sandbox) -> Result<(), Failure> {
        Ok(())
    }

    async fn answers(&self, _: &Sandbox, _: &str) -> bool {
        true
    }

    async fn present(&self) -> Result<Traces, Failure> {
        Ok(Traces::default())
    }

    async fn remove_all_of(&self, _: &SandboxId) -> Result<(), Failure> {
        Ok(())
    }

    async fn look(&self, _: &Sandbox, _: u32) -> Vec<String> {
        Vec::new()
    }

    fn counters(&self, _: &Sandbox) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    fn proportional_memory(&self, _: &Sandbox) -> u64 {
        0
    }

    fn has_home(&self, _: &str) -> Result<bool, Failure> {
        Ok(false)
    }

    fn set_home_aside(&self, _: &RetiredHome) -> Result<bool, Failure> {
        Ok(false)
    }

    fn bring_home_back(&self, _: &RetiredHome) -> Result<(), Failure> {
        Ok(())
    }

    fn purge_home(&self, _: &RetiredHome) -> Result<(), Failure> {
        Ok(())
    }

    fn refusals(&self, _: &Sandbox) -> Refusals {
        Refusals::default()
    }
}
