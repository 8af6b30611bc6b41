//! Errors as PostgREST and the gateway in front of it word them.

use super::Role;
use crate::demo::cloud::Reply;

/// Why a request was refused, in PostgREST's shape.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Refusal {
    code: &'static str,
    details: Option<String>,
    hint: Option<String>,
    message: String,
    #[serde(skip)]
    status: u16,
    #[serde(skip)]
    challenge: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { code, details: None, hint: None, message: message.into(), status, challenge: None }
    }

    pub(super) fn details(mut self, text: impl Into<String>) -> Self {
        self.details = Some(text.into());
        self
    }

    pub(super) fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }

    pub(super) fn invalid_json() -> Self {
        Self::new(400, "PGRST102", "Empty or invalid json")
    }

    /// A token that is none: PostgREST says so in a header too.
    pub(super) fn bad_token(message: &str) -> Self {
        let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{message}\"");
        Self { challenge: Some(challenge), ..Self::new(401, "PGRST301", message) }
    }

    /// Who is nobody is asked to log in; who is somebody is told no.
    pub(super) fn not_allowed(role: Role, message: String) -> Self {
        match role {
            Role::Anon => Self { challenge: Some("Bearer".to_owned()), ..Self::new(401, "42501", message) },
            _ => Self::new(403, "42501", message),
        }
    }

    pub(super) fn into_reply(self) -> Reply {
        let body = serde_json::to_string(&self).expect("strings alone");
        let reply = Reply::json(self.status, body)
            .with_header("proxy-status", format!("PostgREST; error={}", self.code));
        match self.challenge {
            Some(challenge) => reply.with_header("www-authenticate", challenge),
            None => reply,
        }
    }
}

/// What the gateway in front refuses has another shape: no code in the body, one in a header.
pub(super) fn at_the_gate(code: &str, message: &str, hint: &str) -> Reply {
    let body = serde_json::json!({ "message": message, "hint": hint });
    Reply::json(401, body.to_string()).with_header("sb-error-code", code)
}
