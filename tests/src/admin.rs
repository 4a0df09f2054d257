//! An operator: calls of the admin port.

use serde_json::Value as Json;

use crate::host::Host;

/// An operator of one server.
#[derive(Clone)]
pub struct Admin {
    http: reqwest::Client,
    base: String,
}

/// A status and a body.
pub type Answer = (u16, Json);

impl Admin {
    /// An operator of `host`.
    ///
    /// # Panics
    /// Never: the client has a constant configuration.
    pub fn of(host: &Host) -> Self {
        let http = crate::http();
        Self { http, base: host.url("admin", "") }
    }

    /// The component that runs.
    pub async fn component(&self) -> Json {
        let (status, body) = self.ask(self.http.get(format!("{}/component", self.base))).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Swaps in a component; `query` is empty or begins with a question mark.
    pub async fn swap(&self, component: Vec<u8>, query: &str) -> Answer {
        let url = format!("{}/component{query}", self.base);
        self.ask(self.http.put(url).body(component)).await
    }

    /// Rolls back the component; `query` is empty or begins with a question mark.
    pub async fn roll_back(&self, query: &str) -> Answer {
        self.ask(self.http.post(format!("{}/component/rollback{query}", self.base))).await
    }

    /// The metrics.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn metrics(&self) -> String {
        let response = self.http.get(format!("{}/metrics", self.base)).send().await;
        response.expect("an answer").text().await.expect("text")
    }

    /// Sends a request.
    ///
    /// # Panics
    /// When the answer is not JSON.
    async fn ask(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json().await.expect("JSON"))
    }
}
