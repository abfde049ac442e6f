//! Who answers: the address and the name of the server behind a store, for messages.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use parking_lot::Mutex;

/// Longer names are cut: they come from strangers.
const NAME_MAX: usize = 64;

/// What the answers told so far. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    seen: Arc<Mutex<Option<Seen>>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    /// `https://HOST:PORT`.
    address: String,
    /// Its `Server` header.
    name: Option<String>,
}

impl Server {
    /// The server at an address that no answer came from yet.
    pub(super) fn at(address: &str) -> Self {
        let seen = Seen { address: address.to_owned(), name: None };
        Self { seen: Arc::new(Mutex::new(Some(seen))) }
    }

    /// `https://HOST:PORT (Server: NAME)`, once something answered.
    pub(super) fn describe(&self) -> Option<String> {
        let seen = self.seen.lock().clone()?;
        Some(match seen.name {
            Some(name) => format!("{} (Server: {name})", seen.address),
            None => seen.address,
        })
    }

    fn note(&self, address: String, header: Option<&str>) {
        let is_shown = |c: &char| !c.is_control();
        let name = header.map(|name| name.chars().filter(is_shown).take(NAME_MAX).collect());
        let new = Seen { address, name };
        let mut seen = self.seen.lock();
        if seen.as_ref() != Some(&new) {
            *seen = Some(new);
        }
    }
}

/// Makes clients that note who answers them. Clients of other servers (credentials come from some)
/// are not told apart, but they answer before the bucket does.
impl HttpConnector for Server {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Noting { client, server: self.clone() }))
    }
}

#[derive(Debug)]
struct Noting {
    client: HttpClient,
    server: Server,
}

#[async_trait]
impl HttpService for Noting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri();
        // Not the authority: an endpoint from the environment may hold a user and password.
        let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.host());
        let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        let address = host.map(|host| format!("{scheme}://{host}{port}")).unwrap_or_default();
        let response = self.client.execute(request).await?;
        let name = response.headers().get("server").and_then(|name| name.to_str().ok());
        self.server.note(address, name);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_last_answer_and_cannot_flood_a_message() {
        let server = Server::default();
        assert_eq!(server.describe(), None);
        server.note("http://h:1".into(), None);
        assert_eq!(server.describe().unwrap(), "http://h:1");
        server.note("http://h:1".into(), Some(&"x\u{7f}".repeat(1000)));
        assert_eq!(server.describe().unwrap().len(), "http://h:1 (Server: )".len() + NAME_MAX);
    }
}
