//! The commands about images.

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use adrastea_proto::v1::{self, ImageFindingLevel, import_image_event};
use clap::Subcommand;
use tonic::Streaming;

use super::client;
use crate::{quantity::display_bytes, say::say};

#[derive(Subcommand)]
pub enum ImageCommand {
    /// Fetch an image from a registry; a broken-off download is continued.
    Pull {
        /// For example quay.io/jupyter/minimal-notebook:2025-10-20, or with @sha256:…
        reference: String,
        /// The name it gets on this node. Default: the reference.
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
    },
    /// Import an OCI archive, an OCI layout, or what `docker save` writes.
    Import {
        archive: PathBuf,
        /// The name it gets on this node, e.g. localhost/adrastea/singleuser:1
        reference: String,
    },
    /// List images, and who uses them.
    Ls,
    /// Remove an image, and free its disk.
    Rm {
        reference: String,
        /// Although a profile names it. The image of a live sandbox always stays.
        #[arg(long)]
        force: bool,
    },
    /// Remove every image that neither the configuration nor a live sandbox names.
    Prune {
        /// Only say which.
        #[arg(long)]
        dry_run: bool,
    },
    /// Tell what an image supports, and what would make it start faster.
    Check { reference: String },
}

pub async fn run(config: &Path, command: ImageCommand) -> anyhow::Result<ExitCode> {
    let mut admin = client::admin(config).await?;
    let said = |status| client::said(&status);
    match command {
        ImageCommand::Pull { reference, name } => {
            let name = name.unwrap_or_default();
            let request = v1::PullImageRequest { reference, name };
            follow(admin.pull_image(request).await.map_err(said)?.into_inner()).await
        }
        ImageCommand::Import { archive, reference } => {
            let path = std::path::absolute(archive)?.display().to_string();
            let request = v1::ImportImageRequest { path, reference };
            follow(admin.import_image(request).await.map_err(said)?.into_inner()).await
        }
        ImageCommand::Ls => {
            let answer = admin.list_images(v1::ListImagesRequest {}).await.map_err(said)?;
            answer.into_inner().images.iter().for_each(show);
            Ok(ExitCode::SUCCESS)
        }
        ImageCommand::Rm { reference, force } => {
            let request = v1::RemoveImageRequest { reference: reference.clone(), force };
            admin.remove_image(request).await.map_err(said)?;
            say!("removed {reference}");
            Ok(ExitCode::SUCCESS)
        }
        ImageCommand::Prune { dry_run } => {
            let answer =
                admin.prune_images(v1::PruneImagesRequest { dry_run }).await.map_err(said)?;
            let removed = answer.into_inner().removed;
            removed.iter().for_each(show);
            let verb = if dry_run { "would be removed" } else { "removed" };
            say!("{} images {verb}", removed.len());
            Ok(ExitCode::SUCCESS)
        }
        ImageCommand::Check { reference } => {
            let answer =
                admin.check_image(v1::CheckImageRequest { reference }).await.map_err(said)?;
            Ok(report(&answer.into_inner().findings))
        }
    }
}

fn show(image: &v1::Image) {
    say!(
        "{} {} ({} layers, {})",
        image.reference,
        image.digest,
        image.layers,
        display_bytes(image.size_bytes)
    );
    if !image.profiles.is_empty() {
        say!("  profiles: {}", image.profiles.join(", "));
    }
    if !image.sandboxes.is_empty() {
        say!("  live sandboxes: {}", image.sandboxes.join(", "));
    }
}

/// Shows progress, then the image.
async fn follow(mut events: Streaming<v1::ImportImageEvent>) -> anyhow::Result<ExitCode> {
    let live = std::io::stderr().is_terminal();
    let mut last_step = String::new();
    let clear = || {
        if live {
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    };
    loop {
        let event = match events.message().await {
            Ok(event) => event.and_then(|event| event.event),
            Err(status) => {
                clear();
                return Err(client::said(&status));
            }
        };
        match event {
            Some(import_image_event::Event::Progress(progress)) => {
                if live {
                    let done = progress.done_bytes;
                    let percent = (done * 100).checked_div(progress.total_bytes).unwrap_or(0);
                    eprint!(
                        "\r\x1b[K{} {percent} % of {}",
                        progress.step,
                        display_bytes(progress.total_bytes)
                    );
                } else if last_step != progress.step {
                    eprintln!("{}", progress.step);
                    last_step = progress.step;
                }
            }
            Some(import_image_event::Event::Image(image)) => {
                clear();
                show(&image);
                return Ok(ExitCode::SUCCESS);
            }
            None => anyhow::bail!("the launcher ended without a result"),
        }
    }
}

/// One line per finding; fails if no server will start from the image.
fn report(findings: &[v1::ImageFinding]) -> ExitCode {
    let mut usable = true;
    for finding in findings {
        let mark = match finding.level() {
            ImageFindingLevel::Problem => {
                usable = false;
                "problem"
            }
            ImageFindingLevel::Advice => "advice",
            ImageFindingLevel::Fact | ImageFindingLevel::Unspecified => "fact",
        };
        say!("{mark:<8} {}", finding.text);
        if !finding.hint.is_empty() {
            say!("         {}", finding.hint);
        }
    }
    if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
