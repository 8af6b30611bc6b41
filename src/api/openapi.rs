//! The OpenAPI document, made from the handlers, and a page that shows it without the internet.

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::routing::get;
use bytes::Bytes;
use utoipa::PartialSchema as _;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApi, OpenApiBuilder,
    PathItem, Ref, ResponseBuilder, Type,
};

use super::idempotency;
use super::problem::ProblemBody;
use super::rest::Rest;

const PAGE: &str = include_str!("docs.html");
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
     form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
);

const DESCRIPTION: &str = "\
The gateway's devices, commands, readings, sinks and store.

Each request needs a token: `Authorization: Bearer …`. `tampu token create NAME --scope devices:read,commands:write` \
makes one, for these scopes. A JSON Web Token of a configured issuer (`[[jwt]]`) is taken, too; its claim `scope` says \
what it is good for.

Every error is a problem of RFC 9457 (`application/problem+json`); its `detail` says what would be right. Lists come \
in pages: pass `next` of one as `cursor` of the following. A POST may carry an `Idempotency-Key`: sent again with the \
same key it is answered as the first time, and nothing is done twice.";

/// What stands above all paths.
pub(super) fn head() -> OpenApi {
    let info = InfoBuilder::new()
        .title("tampu")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name(env!("CARGO_PKG_LICENSE")).build()))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// Adds what all operations have in common: the token, problems, and the key of a POST.
pub(super) fn complete(document: &mut OpenApi) {
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("token or JWT").build();
    let components = document.components.take().unwrap_or_else(|| ComponentsBuilder::new().build());
    let mut components = components;
    components.add_security_scheme("token", SecurityScheme::Http(scheme));
    components.schemas.insert("Problem".to_owned(), ProblemBody::schema());
    document.components = Some(components);
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let problem = ResponseBuilder::new()
        .description("What went wrong, and what would be right")
        .content("application/problem+json", content)
        .build();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let words =
                path.split('/').map(|word| word.trim_matches(['{', '}'])).filter(|word| !is_prefix(word));
            let words: Vec<_> = std::iter::once(method).chain(words).collect();
            operation.operation_id = Some(words.join("_").replace('-', "_"));
            operation.responses.responses.insert("default".to_owned(), problem.clone().into());
        }
        if let Some(post) = &mut item.post {
            let key =
                ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(128));
            let key = ParameterBuilder::new()
                .name(idempotency::HEADER)
                .parameter_in(ParameterIn::Header)
                .description(Some("Sent again with the same key, a request is answered as the first time"))
                .schema(Some(key.pattern(Some("^[!-~]{1,128}$")).build()))
                .build();
            post.parameters.get_or_insert_default().push(key);
        }
    }
}

fn is_prefix(word: &str) -> bool {
    matches!(word, "" | "api" | "v1")
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, post, put, delete, patch, .. } = item;
    let all = [("get", get), ("post", post), ("put", put), ("delete", delete), ("patch", patch)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// The document as it is served.
pub(super) struct Document(Bytes);

impl Document {
    pub(super) fn new(document: &OpenApi) -> Self {
        Self(document.to_json().expect("names and texts can be written as JSON").into())
    }

    pub(super) fn routes(self) -> Router<Arc<Rest>> {
        let json = || async { ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.0) };
        let page = || async {
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            ([(CONTENT_TYPE, html), (CONTENT_SECURITY_POLICY, POLICY)], PAGE)
        };
        Router::new().route("/api/openapi.json", get(json)).route("/api/docs", get(page))
    }
}
