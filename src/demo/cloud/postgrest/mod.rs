//! PostgREST's `/rest/v1/<table>`, behind Supabase's gate, with Realtime beside it.
//!
//! What is refused, how, and in which order follows replies recorded from PostgREST over PostgreSQL 15;
//! a test replays them. It inserts JSON bodies, and selects and updates as far as a gateway does: anything else is
//! answered with 501, which no real server sends, so that nobody takes it for one.

mod insert;
mod refusal;
mod schema;
mod select;
mod table;
mod value;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName};
use axum::routing::post;

use super::realtime::{self, Realtime};
use super::{Line, Reply};
use crate::tasks::Spawner;
use insert::Insert;
use refusal::{Refusal, at_the_gate};
use select::Select;
use table::{Inserted, Stored};

pub use table::{Column, Grant, Kind, Row, Table, Unique};

/// Whom a key or a token acts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `service_role`: policies do not hold for it.
    Service,
    /// `tampu_gateway` of `packaging/supabase/schema.sql`.
    Gateway,
    /// `authenticated`
    Authenticated,
    /// `anon`
    Anon,
}

/// A key that the gate lets pass. With three parts joined by dots it is a JWT, and good as a token too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The key.
    pub text: String,
    /// Whom it acts for.
    pub role: Role,
}

/// The project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgRestSettings {
    /// Its keys.
    pub keys: Vec<ApiKey>,
    /// Its tables, in the schema `public`.
    pub tables: Vec<Table>,
}

impl Default for PostgRestSettings {
    fn default() -> Self {
        let key = |text: &str, role| ApiKey { text: text.to_owned(), role };
        Self {
            keys: vec![
                key("sb_secret_demo", Role::Service),
                key("sb_publishable_demo", Role::Anon),
                key("demo.service.jwt", Role::Service),
                key("demo.gateway.jwt", Role::Gateway),
                key("demo.authenticated.jwt", Role::Authenticated),
                key("demo.anon.jwt", Role::Anon),
            ],
            tables: vec![Table::readings(), Table::commands()],
        }
    }
}

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgRest {
    line: Line,
    project: Arc<Project>,
}

#[derive(Debug)]
struct Project {
    realtime: Realtime,
    keys: Vec<ApiKey>,
    tables: Mutex<BTreeMap<&'static str, Stored>>,
    max_body_bytes: AtomicUsize,
    max_rows: AtomicUsize,
}

impl PostgRest {
    pub(super) async fn start(settings: PostgRestSettings, spawner: &Spawner) -> io::Result<Self> {
        let tables = settings.tables.into_iter().map(|table| (table.name, Stored::new(table))).collect();
        let keys = settings.keys.iter().map(|key| key.text.clone()).collect();
        let realtime = Realtime::new(keys, spawner);
        let project = Arc::new(Project {
            realtime: realtime.clone(),
            keys: settings.keys,
            tables: Mutex::new(tables),
            max_body_bytes: AtomicUsize::new(usize::MAX),
            max_rows: AtomicUsize::new(usize::MAX),
        });
        let state = Arc::clone(&project);
        let line = Line::serve(spawner, move |_| {
            Router::new()
                .route("/rest/v1/{table}", post(serve).get(select).patch(update).fallback(unlike_any_server))
                .fallback(unlike_any_server)
                .with_state(state)
                .merge(realtime.router())
        })
        .await?;
        Ok(Self { line, project })
    }

    /// The line to it.
    #[must_use]
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Realtime of the same project.
    #[must_use]
    pub fn realtime(&self) -> &Realtime {
        &self.project.realtime
    }

    /// Inserts a row as the service role, over no line. Realtime tells of it.
    ///
    /// # Errors
    /// What the database says against it.
    pub fn insert(&self, table: &str, row: &serde_json::Value) -> Result<(), String> {
        let (body, nothing) = (row.to_string(), BTreeMap::new());
        let insert = Insert::parse(&HeaderMap::new(), &nothing, body.as_bytes());
        let inserted = insert.and_then(|insert| self.project.insert(table, &insert, Role::Service));
        inserted.map(|_| ()).map_err(|refusal| format!("{refusal:?}"))
    }

    /// Every row of a table, in the order of arrival. Empty when there is no such table.
    #[must_use]
    pub fn rows(&self, table: &str) -> Vec<Row> {
        self.project.tables().get(table).map(Stored::rows).unwrap_or_default()
    }

    /// How many rows a table has.
    #[must_use]
    pub fn row_count(&self, table: &str) -> usize {
        self.project.tables().get(table).map_or(0, Stored::len)
    }

    /// Rows that were sent to a table and left out, because their key was there already.
    #[must_use]
    pub fn ignored(&self, table: &str) -> u64 {
        self.project.tables().get(table).map_or(0, Stored::ignored)
    }

    /// From now on larger bodies are refused by the proxy in front: 413, in HTML.
    pub fn limit_body_bytes(&self, bytes: usize) {
        self.project.max_body_bytes.store(bytes, Ordering::Relaxed);
    }

    /// From now on an insert of more rows runs into the statement timeout: 500, code 57014.
    pub fn limit_rows(&self, rows: usize) {
        self.project.max_rows.store(rows, Ordering::Relaxed);
    }
}

impl Project {
    fn tables(&self) -> MutexGuard<'_, BTreeMap<&'static str, Stored>> {
        self.tables.lock().expect("no panic under this lock")
    }

    /// The gate in front of PostgREST: whose key is this?
    fn role_of_key(&self, headers: &HeaderMap) -> Result<Role, Reply> {
        let hint = "Double check your Supabase `anon` or `service_role` API key.";
        let Some(key) = text(headers, "apikey") else {
            let message = "No API key found in request";
            return Err(at_the_gate(
                "UNAUTHORIZED_MISSING_API_KEY",
                message,
                "No `apikey` request header found.",
            ));
        };
        self.key(key).ok_or_else(|| at_the_gate("UNAUTHORIZED_INVALID_API_KEY", "Invalid API key", hint))
    }

    /// PostgREST itself knows tokens alone; without one, Supabase's gate has it act for the key's role.
    fn role(&self, headers: &HeaderMap, of_key: Role) -> Result<Role, Refusal> {
        let Some(authorization) = text(headers, "authorization") else { return Ok(of_key) };
        let Some(token) = authorization.strip_prefix("Bearer ") else { return Ok(of_key) };
        match token.split('.').count() {
            3 => self.key(token).ok_or_else(|| {
                Refusal::bad_token("No suitable key or wrong key type")
                    .details("None of the keys was able to decode the JWT")
            }),
            parts => Err(Refusal::bad_token(&format!("Expected 3 parts in JWT; got {parts}"))),
        }
    }

    fn key(&self, text: &str) -> Option<Role> {
        self.keys.iter().find(|key| key.text == text).map(|key| key.role)
    }

    fn insert(&self, table: &str, insert: &Insert<'_>, role: Role) -> Result<Inserted, Refusal> {
        let mut tables = self.tables();
        let Some(stored) = tables.get_mut(table) else {
            return Err(no_such_table(table));
        };
        let plan = insert.plan(&stored.table)?;
        if role != Role::Service && !stored.table.grants.iter().any(|grant| grant.role == role) {
            return Err(Refusal::not_allowed(role, format!("permission denied for table {table}")));
        }
        if insert.rows() > self.max_rows.load(Ordering::Relaxed) {
            return Err(Refusal::new(500, "57014", "canceling statement due to statement timeout"));
        }
        let rows = insert.cells(&stored.table)?;
        let inserted = stored.insert(rows, role, plan)?;
        let table = stored.table.name;
        for record in inserted.representation.iter().filter(|_| inserted.new > 0) {
            self.realtime.inserted(realtime::Inserted { table, record: record.as_str().into() });
        }
        Ok(inserted)
    }

    fn select(&self, table: &str, select: &Select, role: Role) -> Result<Vec<String>, Refusal> {
        let tables = self.tables();
        let stored = tables.get(table).ok_or_else(|| no_such_table(table))?;
        let plan = select.plan(&stored.table)?;
        if role != Role::Service
            && !stored.table.grants.iter().any(|grant| grant.role == role && grant.select)
        {
            return Err(Refusal::not_allowed(role, format!("permission denied for table {table}")));
        }
        let found = stored.select(&plan.filters, plan.order);
        Ok(found.into_iter().take(plan.limit).map(|at| stored.part(at, &plan.columns)).collect())
    }

    fn update(&self, table: &str, select: &Select, body: &[u8], role: Role) -> Result<Vec<String>, Refusal> {
        let mut tables = self.tables();
        let stored = tables.get_mut(table).ok_or_else(|| no_such_table(table))?;
        let plan = select.plan(&stored.table)?;
        let values = select::values(body, &stored.table)?;
        let may = |grant: &Grant| {
            let names = values.iter().map(|(at, _)| stored.table.columns[*at].name);
            grant.role == role && names.into_iter().all(|name| grant.update.contains(&name))
        };
        if role != Role::Service && !stored.table.grants.iter().any(may) {
            return Err(Refusal::not_allowed(role, format!("permission denied for table {table}")));
        }
        let found = stored.select(&plan.filters, plan.order);
        stored.update(&found, &values)?;
        Ok(found.into_iter().map(|at| stored.part(at, &plan.columns)).collect())
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    headers.get(HeaderName::from_static(name)).and_then(|value| value.to_str().ok())
}

async fn serve(
    State(project): State<Arc<Project>>,
    Path(table): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Reply {
    if body.len() > project.max_body_bytes.load(Ordering::Relaxed) {
        return Reply::html(413, "<html><h1>413 Request Entity Too Large</h1></html>");
    }
    let of_key = match project.role_of_key(&headers) {
        Ok(role) => role,
        Err(refused) => return refused,
    };
    if text(&headers, "content-type").is_some_and(|kind| kind.starts_with("text/csv")) {
        return unlike_any_server().await;
    }
    let served = project.role(&headers, of_key).and_then(|role| {
        let insert = Insert::parse(&headers, &query, &body)?;
        let inserted = project.insert(&table, &insert, role)?;
        Ok(insert.reply(&inserted))
    });
    served.unwrap_or_else(Refusal::into_reply)
}

async fn select(
    State(project): State<Arc<Project>>,
    Path(table): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Reply {
    let served = project.role_of_key(&headers).map(|of_key| {
        let role = project.role(&headers, of_key)?;
        project.select(&table, &Select::parse(&query)?, role)
    });
    answer(served)
}

async fn update(
    State(project): State<Arc<Project>>,
    Path(table): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Bytes,
) -> Reply {
    let prefers_rows =
        text(&headers, "prefer").is_some_and(|prefer| prefer.contains("return=representation"));
    if !prefers_rows {
        return unlike_any_server().await;
    }
    let served = project.role_of_key(&headers).map(|of_key| {
        let role = project.role(&headers, of_key)?;
        project.update(&table, &Select::parse(&query)?, &body, role)
    });
    answer(served)
}

fn answer(served: Result<Result<Vec<String>, Refusal>, Reply>) -> Reply {
    match served {
        Err(at_the_gate) => at_the_gate,
        Ok(Err(refusal)) => refusal.into_reply(),
        Ok(Ok(rows)) => Reply::json(200, format!("[{}]", rows.join(", \n ")))
            .with_header("content-range", "*/*")
            .with_header("vary", "Accept, Prefer, Range"),
    }
}

fn no_such_table(table: &str) -> Refusal {
    let message = format!("Could not find the table 'public.{table}' in the schema cache");
    Refusal::new(404, "PGRST205", message)
}

async fn unlike_any_server() -> Reply {
    Reply::json(501, r#"{"message":"this double of PostgREST does not do this"}"#)
}
