//! The launcher's end of the init's channel: the task's stdin and stdout.
//!
//! The init says that it waits, gets one claim, says that it has it; from then
//! on its stdout is the server's log. Secrets travel here and nowhere else.

use std::{io, time::Duration};

use adrastea_init::{
    FirstLine,
    claim::{self, Claim},
    report::{self, Report},
    trial,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    time::timeout,
};

/// No line of the channel is longer.
const LONGEST_LINE: usize = 4096;

/// Why the init did not answer as it must.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the init said nothing within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the init said `{0}`")]
    Unexpected(String),
    #[error("failed to talk to the init")]
    Broken(#[source] io::Error),
    #[error("the claim is too large for the init")]
    TooLarge,
    #[error("the image's program cannot wait: {0}")]
    Aside(String),
}

pub struct Channel {
    pub sender: pipe::Sender,
    pub receiver: pipe::Receiver,
}

impl Channel {
    /// Waits until the init waits; returns what it says of the walls that it alone can try.
    pub async fn waiting(&mut self, within: Duration) -> Result<FirstLine, ChannelError> {
        let said = self.said(within).await?;
        adrastea_init::first_line(&said).ok_or(ChannelError::Unexpected(said))
    }

    /// Asks the waiting init what is around it.
    pub async fn report(&mut self, within: Duration) -> Result<Report, ChannelError> {
        let asked = timeout(within, self.sender.write_all(report::REQUEST)).await;
        asked.map_err(|_| ChannelError::Silent(within))?.map_err(ChannelError::Broken)?;
        let said = self.said(within).await?;
        let length = said
            .strip_prefix(report::ANNOUNCED)
            .and_then(|length| length.parse::<usize>().ok())
            .filter(|length| *length <= report::MAX_REPORT);
        let Some(length) = length else { return Err(ChannelError::Unexpected(said)) };
        let mut bytes = vec![0; length];
        timeout(within, self.receiver.read_exact(&mut bytes))
            .await
            .map_err(|_| ChannelError::Silent(within))?
            .map_err(ChannelError::Broken)?;
        Report::decode(&bytes).ok_or_else(|| ChannelError::Unexpected("no report".into()))
    }

    /// Has the waiting init make files in the home that was attached, which is nobody's, and
    /// returns what it tells of them.
    pub async fn trial(&mut self, within: Duration) -> Result<String, ChannelError> {
        let asked = timeout(within, self.sender.write_all(trial::REQUEST)).await;
        asked.map_err(|_| ChannelError::Silent(within))?.map_err(ChannelError::Broken)?;
        let said = self.said(within).await?;
        let told = said.strip_prefix(trial::ANSWERED).map(str::to_owned);
        told.ok_or(ChannelError::Unexpected(said))
    }

    async fn said(&mut self, within: Duration) -> Result<String, ChannelError> {
        timeout(within, self.line())
            .await
            .map_err(|_| ChannelError::Silent(within))?
            .map_err(ChannelError::Broken)
    }

    /// Has the init start the command's waiting program, and waits until that has loaded.
    pub async fn standby(&mut self, standby: &Claim, within: Duration) -> Result<(), ChannelError> {
        let message = claim::encode_standby(standby).map_err(|_| ChannelError::TooLarge)?;
        let written = timeout(within, self.sender.write_all(&message)).await;
        written.map_err(|_| ChannelError::Silent(within))?.map_err(ChannelError::Broken)?;
        let said = self.said(within).await?;
        match said.strip_prefix(adrastea_init::ASIDE) {
            Some(reason) => Err(ChannelError::Aside(reason.to_owned())),
            None if said == adrastea_init::READY => Ok(()),
            None => Err(ChannelError::Unexpected(said)),
        }
    }

    /// One line, byte by byte: what follows it belongs to the log.
    async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while line.len() < LONGEST_LINE {
            let mut byte = [0];
            match self.receiver.try_read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte[0] == b'\n' => break,
                Ok(_) => line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.receiver.readable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Hands the claim over and gives the log's end of the channel back; with the reason, if a
    /// program that waited has stepped aside.
    pub async fn claim(
        mut self,
        claim: &Claim,
        within: Duration,
    ) -> Result<(pipe::Receiver, Option<String>), ChannelError> {
        let mut message = claim::encode(claim).map_err(|_| ChannelError::TooLarge)?;
        let written = timeout(within, self.sender.write_all(&message)).await;
        // The token was in it.
        message.fill(0);
        written.map_err(|_| ChannelError::Silent(within))?.map_err(ChannelError::Broken)?;
        let said = self.said(within).await?;
        let anew = match said.strip_prefix(adrastea_init::CLAIMED) {
            Some("") => None,
            Some(more) => match more.strip_prefix(adrastea_init::ANEW) {
                Some(reason) => Some(reason.to_owned()),
                None => return Err(ChannelError::Unexpected(said)),
            },
            None => return Err(ChannelError::Unexpected(said)),
        };
        Ok((self.receiver, anew))
    }
}
