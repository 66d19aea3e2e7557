//! Blobs in containerd's content store: read small ones, write an archive's.
//!
//! Every byte is hashed on its way, in both directions. Must never set a label
//! that came from an image.

use std::{collections::HashMap, time::Duration};

use containerd_client::services::v1::{
    AbortRequest, Info, InfoRequest, ReadContentRequest, UpdateRequest, WriteAction,
    WriteContentRequest, WriteContentResponse, content_client::ContentClient,
};
use oci_spec::image::Descriptor;
use prost_types::FieldMask;
use sha2::{Digest, Sha256};
use tokio::{io::AsyncReadExt, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};

use super::{
    Containerd, LONG, SHORT,
    archive::ArchiveError,
    blob::Place,
    call::CallError,
    manifest::{JSON_LIMIT, Unusable, digest_text, sha256},
};

/// Well below containerd's message limit of 16 MiB.
const CHUNK: usize = 1 << 20;
/// The commit hashes and syncs the whole blob.
const COMMIT: Duration = Duration::from_secs(300);

/// Why a blob could not be stored.
pub(super) enum StoreError {
    Call(CallError),
    Archive(std::io::Error),
    Unusable(Unusable),
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<ArchiveError> for StoreError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Unusable(reason) => Self::Unusable(reason),
            ArchiveError::Io(error) => Self::Archive(error),
        }
    }
}

/// A request under a lease: what it makes is safe from garbage collection.
pub(super) fn leased<T>(mut request: Request<T>, lease: &str) -> Request<T> {
    if let Ok(value) = lease.parse() {
        request.metadata_mut().insert("containerd-lease", value);
    }
    request
}

impl Containerd {
    /// A small blob, its digest verified: containerd's client does not.
    pub(super) async fn read_blob(&self, digest: &str) -> Result<Vec<u8>, CallError> {
        let request = self.request(ReadContentRequest {
            digest: digest.to_owned(),
            ..ReadContentRequest::default()
        });
        let limit = usize::try_from(JSON_LIMIT).unwrap_or(usize::MAX);
        let bytes = self
            .call(SHORT, |channel| async move {
                let mut stream = ContentClient::new(channel).read(request).await?.into_inner();
                let mut bytes = Vec::new();
                while let Some(message) = stream.message().await? {
                    bytes.extend(message.data);
                    if bytes.len() > limit {
                        return Err(tonic::Status::out_of_range("the blob is too large"));
                    }
                }
                Ok(bytes)
            })
            .await?;
        if sha256(&bytes) == digest {
            Ok(bytes)
        } else {
            Err(CallError::Refused {
                code: Code::DataLoss,
                message: format!("the stored blob {digest} has another digest"),
            })
        }
    }

    pub(super) async fn has_blob(&self, digest: &str) -> Result<bool, CallError> {
        let request = self.request(InfoRequest { digest: digest.to_owned() });
        let asking =
            self.call(SHORT, |channel| async { ContentClient::new(channel).info(request).await });
        match asking.await {
            Ok(_) => Ok(true),
            Err(error) if error.is(Code::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets labels of a blob that is there already.
    async fn label_blob(
        &self,
        digest: &str,
        labels: &HashMap<String, String>,
    ) -> Result<(), CallError> {
        if labels.is_empty() {
            return Ok(());
        }
        let request = self.request(UpdateRequest {
            info: Some(Info {
                digest: digest.to_owned(),
                labels: labels.clone(),
                ..Info::default()
            }),
            update_mask: Some(FieldMask {
                paths: labels.keys().map(|key| format!("labels.{key}")).collect(),
            }),
        });
        self.call(SHORT, |channel| async { ContentClient::new(channel).update(request).await })
            .await
            .map(|_| ())
    }

    /// Stores one blob of an archive, unless the store has it. `written` is
    /// told how many bytes of it are done.
    pub(super) async fn write_blob(
        &self,
        lease: &str,
        source: &Place,
        blob: &Descriptor,
        labels: HashMap<String, String>,
        written: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), StoreError> {
        let digest = blob.digest().to_string();
        if !self.has_blob(&digest).await? {
            // What an import that was killed left half written.
            let reference = format!("adrastea-{digest}");
            self.abort_write(&reference).await?;
            let stored = self.write_new(lease, source, blob, &reference, &labels, written).await;
            match stored {
                Ok(()) => return Ok(()),
                Err(StoreError::Call(error)) if error.is(Code::AlreadyExists) => {}
                Err(error) => {
                    let _ = self.abort_write(&reference).await;
                    return Err(error);
                }
            }
        }
        written(blob.size());
        Ok(self.label_blob(&digest, &labels).await?)
    }

    async fn abort_write(&self, reference: &str) -> Result<(), CallError> {
        let request = self.request(AbortRequest { r#ref: reference.to_owned() });
        let aborting =
            self.call(SHORT, |channel| async { ContentClient::new(channel).abort(request).await });
        match aborting.await {
            Err(error) if !error.is(Code::NotFound) => Err(error),
            _ => Ok(()),
        }
    }

    async fn write_new(
        &self,
        lease: &str,
        source: &Place,
        blob: &Descriptor,
        reference: &str,
        labels: &HashMap<String, String>,
        written: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), StoreError> {
        let digest = blob.digest().to_string();
        let total = i64::try_from(source.size()).unwrap_or(i64::MAX);
        let message = |action: WriteAction| WriteContentRequest {
            action: action.into(),
            r#ref: reference.to_owned(),
            total,
            expected: digest.clone(),
            ..WriteContentRequest::default()
        };

        let (sender, receiver) = mpsc::channel(2);
        let request = leased(self.request(ReceiverStream::new(receiver)), lease);
        send(&sender, message(WriteAction::Stat)).await?;
        let mut answers = self
            .call(LONG, |channel| async {
                Ok(ContentClient::new(channel).write(request).await?.into_inner())
            })
            .await?;
        // containerd may have the blob for another namespace: then it starts at the end.
        let known = answer(&mut answers, LONG).await?.offset;
        let known = u64::try_from(known).unwrap_or(0);

        let size = source.size();
        let mut file = source.open().await.map_err(StoreError::Archive)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut done = 0;
        while done < size {
            let wanted = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
            let chunk = &mut buffer[..wanted];
            file.read_exact(chunk).await.map_err(StoreError::Archive)?;
            hasher.update(&*chunk);
            let next = done + wanted as u64;
            if next > known {
                let skip = usize::try_from(known.saturating_sub(done)).unwrap_or(0);
                let mut write = message(WriteAction::Write);
                write.offset = i64::try_from(done + skip as u64).unwrap_or(i64::MAX);
                write.data = chunk[skip..].to_vec();
                send(&sender, write).await?;
                answer(&mut answers, LONG).await?;
            }
            done = next;
            written(done);
        }
        if digest_text(&hasher.finalize()) != digest {
            let reason = format!("the blob {digest} has another digest");
            return Err(StoreError::Unusable(Unusable(reason)));
        }
        let mut commit = message(WriteAction::Commit);
        commit.offset = total;
        commit.labels.clone_from(labels);
        send(&sender, commit).await?;
        answer(&mut answers, COMMIT).await?;
        Ok(())
    }
}

async fn send(
    sender: &mpsc::Sender<WriteContentRequest>,
    message: WriteContentRequest,
) -> Result<(), StoreError> {
    match timeout(LONG, sender.send(message)).await {
        // An error means that the call is over; its answer, read next, says why.
        Ok(_) => Ok(()),
        Err(_) => Err(CallError::Late(LONG).into()),
    }
}

async fn answer(
    answers: &mut Streaming<WriteContentResponse>,
    deadline: Duration,
) -> Result<WriteContentResponse, StoreError> {
    match timeout(deadline, answers.message()).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) => Err(StoreError::Call(CallError::Refused {
            code: Code::Aborted,
            message: "containerd ended the write early".to_owned(),
        })),
        Ok(Err(status)) => Err(CallError::from(status).into()),
        Err(_) => Err(CallError::Late(deadline).into()),
    }
}
