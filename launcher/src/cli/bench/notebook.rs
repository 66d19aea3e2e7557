//! A tiny client of a server's own API, as a hub's proxy would pass it on: a kernel is made, one
//! cell is run over its websocket, and the kernel is taken away again.
//!
//! Must ask nothing of the launcher, and must run nothing but `1 + 1`.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

/// A kernel that takes longer than this will not come.
const PATIENCE: Duration = Duration::from_secs(90);
/// What is in an answer is the server's own affair: it belongs to whoever is measured.
const LONGEST_ANSWER: usize = 1 << 20;

/// A server that answers, and what opens it.
pub struct Notebook {
    pub server: SocketAddr,
    /// Its path, with a slash at both ends.
    pub base: String,
    pub token: String,
}

impl Notebook {
    /// Returns when `1 + 1` has been answered. The kernel is left to [`Notebook::end`].
    pub async fn first_cell(&self) -> anyhow::Result<Kernel> {
        let asking = async {
            let kernel = self.kernel().await?;
            self.cell(&kernel).await?;
            Ok(kernel)
        };
        let late = || format!("no cell was answered within {} s", PATIENCE.as_secs());
        tokio::time::timeout(PATIENCE, asking).await.with_context(late)?
    }

    /// Takes the kernel away, so that a stop is measured as that of an idle server.
    pub async fn end(&self, kernel: Kernel) -> anyhow::Result<()> {
        let path = format!("{}api/kernels/{}", self.base, kernel.0);
        let ending = self.ask(Method::DELETE, &path, "");
        tokio::time::timeout(PATIENCE, ending).await.context("the kernel does not end")??;
        Ok(())
    }

    async fn kernel(&self) -> anyhow::Result<Kernel> {
        let path = format!("{}api/kernels", self.base);
        let (status, body) = self.ask(Method::POST, &path, "{}").await?;
        ensure!(status == StatusCode::CREATED, "the server makes no kernel: it answered {status}");
        let made: Value = serde_json::from_slice(&body).context("failed to read its answer")?;
        let id = made["id"].as_str().context("the server names no kernel")?;
        // It becomes part of a path.
        let is_plain = |it: char| it.is_ascii_alphanumeric() || it == '-';
        ensure!(id.len() <= 64 && id.chars().all(is_plain), "the server's kernel has an odd name");
        Ok(Kernel(id.to_owned()))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(self.server).await.context("failed to reach the server")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.server.to_string())
            .header(AUTHORIZATION, self.authorization()?)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from_static(body.as_bytes())))?;
        let answered = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
            let body =
                body.map_err(|error| anyhow::anyhow!("failed to read its answer: {error}"))?;
            Ok((status, body.to_bytes()))
        };
        let answered = answered.await;
        driver.abort();
        answered
    }

    async fn cell(&self, kernel: &Kernel) -> anyhow::Result<()> {
        let address = format!("ws://{}{}api/kernels/{}/channels", self.server, self.base, kernel.0);
        let mut request = address.into_client_request()?;
        request.headers_mut().insert(AUTHORIZATION, self.authorization()?);
        let stream = TcpStream::connect(self.server).await.context("failed to reach the server")?;
        let bounds = WebSocketConfig::default().max_message_size(Some(LONGEST_ANSWER));
        let (mut socket, _) = client_async_with_config(request, stream, Some(bounds))
            .await
            .context("the server opens no websocket to the kernel")?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        socket.send(Message::text(execute(&id).to_string())).await?;
        let mut seen = Seen::default();
        while let Some(message) = socket.next().await {
            let Message::Text(text) = message? else { continue };
            let event: Value = serde_json::from_str(&text).context("failed to read a message")?;
            if seen.takes(&id, &event)? {
                return Ok(());
            }
        }
        bail!("the server closed the websocket before the cell was answered")
    }

    fn authorization(&self) -> anyhow::Result<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("token {}", self.token))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// A kernel by the name that its server gave it.
pub struct Kernel(String);

/// <https://jupyter-client.readthedocs.io/en/stable/messaging.html#execute>
fn execute(id: &str) -> Value {
    json!({
        "header": {
            "msg_id": id, "msg_type": "execute_request", "version": "5.3",
            "username": "", "session": id, "date": "",
        },
        "content": {
            "code": "1 + 1", "silent": false, "store_history": false, "stop_on_error": true,
            "user_expressions": {}, "allow_stdin": false,
        },
        "parent_header": {}, "metadata": {}, "channel": "shell", "buffers": [],
    })
}

/// What has come of one cell.
#[derive(Default)]
struct Seen {
    result: bool,
}

impl Seen {
    /// Whether the cell has been answered with this message; an error if it will not be.
    fn takes(&mut self, id: &str, event: &Value) -> anyhow::Result<bool> {
        if event["parent_header"]["msg_id"] != id {
            return Ok(false);
        }
        let content = &event["content"];
        match event["msg_type"].as_str().unwrap_or_default() {
            "execute_result" => self.result |= content["data"]["text/plain"] == "2",
            "error" => bail!("the cell failed: {}", content["ename"]),
            "execute_reply" if content["status"] != "ok" => bail!("the cell was not run"),
            "status" if content["execution_state"] == "idle" => {
                ensure!(self.result, "`1 + 1` was not answered with 2");
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(kind: &str, id: &str, content: &Value) -> Value {
        json!({"msg_type": kind, "parent_header": {"msg_id": id}, "content": content})
    }

    fn idle(id: &str) -> Value {
        event("status", id, &json!({"execution_state": "idle"}))
    }

    #[test]
    fn a_cell_is_answered_when_its_own_result_has_come() {
        let two = json!({"data": {"text/plain": "2"}});
        let mut seen = Seen::default();
        for passing in [
            event("execute_result", "another", &two),
            idle("another"),
            event("status", "x", &json!({"execution_state": "busy"})),
            event("execute_result", "x", &two),
            event("execute_reply", "x", &json!({"status": "ok"})),
        ] {
            assert!(!seen.takes("x", &passing).unwrap(), "{passing}");
        }
        assert!(seen.takes("x", &idle("x")).unwrap());
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(Seen::default().takes("x", &idle("x")).is_err(), "idle without a result");
        let three = event("execute_result", "x", &json!({"data": {"text/plain": "3"}}));
        let mut seen = Seen::default();
        assert!(!seen.takes("x", &three).unwrap() && seen.takes("x", &idle("x")).is_err());
        for wrong in [
            event("error", "x", &json!({"ename": "NameError"})),
            event("execute_reply", "x", &json!({"status": "aborted"})),
        ] {
            assert!(Seen::default().takes("x", &wrong).is_err(), "{wrong}");
        }
    }
}
