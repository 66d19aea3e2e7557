//! What stands in for a hub where none listens: a server asks its hub for the
//! version, reports activity, and asks who somebody is that brings a token. Knows the
//! tokens of the benchmark's own servers, each for its own server, and nobody else's;
//! gives the port back when it is dropped.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

/// Whose token is whose, of the benchmark's users.
#[derive(Clone, Default)]
pub struct Guests(Arc<Mutex<HashMap<String, String>>>);

impl Guests {
    /// From now on the token opens the servers of this user, and no one's else.
    pub fn let_in(&self, token: &str, user: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A user has one server at a time, and it the newest token.
        known.retain(|_, other| other != user);
        known.insert(token.to_owned(), user.to_owned());
    }

    fn user(&self, token: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}

/// What a server wants of whoever comes to it: the hub's words for "may use the servers of".
pub fn access(user: &str) -> String {
    format!("access:servers!user={user}")
}

pub struct StandIn {
    serving: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Where a hub listens already, that one is asked.
    pub async fn unless_there_is_one(address: SocketAddr, guests: Guests) -> anyhow::Result<Self> {
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Ok(Self { serving: None });
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("failed to listen in a hub's place at {address}"));
            }
        };
        Ok(Self { serving: Some(tokio::spawn(serve(listener, guests))) })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn serve(listener: TcpListener, guests: Guests) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let guests = guests.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let answered = answer(request.uri().path(), token(&request), &guests);
                async move { Ok::<_, Infallible>(answered) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A server that goes away is no news.
            let _ = connection.await;
        });
    }
}

fn token(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("token ")
}

fn answer(path: &str, token: Option<&str>, guests: &Guests) -> Response<Full<Bytes>> {
    let (status, body) = if path == "/hub/api/user" {
        match token.and_then(|token| guests.user(token)) {
            Some(user) => (
                StatusCode::OK,
                serde_json::json!({
                    "kind": "user", "name": user, "admin": false, "groups": [],
                    "session_id": null, "scopes": [access(&user)],
                }),
            ),
            None => (StatusCode::FORBIDDEN, serde_json::json!({"message": "unknown token"})),
        }
    } else {
        (StatusCode::OK, serde_json::json!({"version": "5.0.0"}))
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_its_own_users_servers_and_nobody_elses() {
        let guests = Guests::default();
        guests.let_in("first", "ana");
        guests.let_in("other", "ben");
        let who = |token| answer("/hub/api/user", token, &guests).status();
        assert_eq!((who(Some("first")), who(Some("other"))), (StatusCode::OK, StatusCode::OK));
        for unknown in [None, Some(""), Some("third")] {
            assert_eq!(who(unknown), StatusCode::FORBIDDEN, "{unknown:?}");
        }
        guests.let_in("second", "ana");
        assert_eq!(who(Some("first")), StatusCode::FORBIDDEN, "the server that had it is gone");
        assert_eq!(guests.user("second").as_deref(), Some("ana"));
        assert_eq!(answer("/hub/api/", None, &guests).status(), StatusCode::OK);
    }
}
