//! The wire contract `adrastea.v1`: generated code, its descriptor, and one
//! hand-written `Debug` that keeps secrets out of logs. Knows nothing of
//! sandboxes, users or containers, and must never hold logic.

/// The generated messages and services.
#[allow(clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("adrastea.v1");
}

/// The compiled contract, for reflection and for the golden test.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

impl std::fmt::Debug for v1::StartRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StartRequest")
            .field("request_id", &self.request_id)
            .field("key", &self.key)
            .field("profile", &self.profile)
            .field("runtime", &self.runtime)
            .field("image", &self.image)
            .field("limits", &self.limits)
            .field("arguments", &self.arguments.len())
            .field("environment", &self.environment.keys())
            .field("secret_environment", &self.secret_environment.len())
            .finish_non_exhaustive()
    }
}
