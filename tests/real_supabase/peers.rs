//! PostgreSQL (Debian's) and `@supabase/lite` (npm), each in a directory of its own, until they are dropped.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/supabase/schema.sql");
/// Where `tests/run` has installed it.
const LITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/supabase-lite/node_modules/.bin/lite");
const JWT_SECRET: &str = "a secret of thirty-two bytes or more";

/// The roles and the default grants of a Supabase project, which a bare PostgreSQL lacks.
const PROJECT: &str = "
    create role anon nologin;
    create role authenticated nologin;
    create role service_role nologin bypassrls;
    create role authenticator noinherit login;
    grant anon, authenticated, service_role to authenticator;
    grant usage on schema public to anon, authenticated, service_role;
    alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
";

/// A database server.
pub(crate) struct Postgres {
    directory: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts one with the tables of `packaging/supabase/schema.sql`.
    pub(crate) fn start() -> Self {
        let made = as_postgres("mktemp", &["-d"]);
        let postgres = Self { directory: text(&made).trim().into(), port: free_port() };
        let data = postgres.data();
        let options = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1 -c fsync=off",
            postgres.port,
            postgres.directory.display()
        );
        as_postgres(&binary("initdb"), &["-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"]);
        // Its output goes to a file: the server would hold a pipe open.
        let log = postgres.directory.join("log").display().to_string();
        as_postgres(&binary("pg_ctl"), &["-D", &data, "-o", &options, "-l", &log, "-w", "start"]);
        postgres.sql(PROJECT);
        postgres.apply_schema();
        postgres
    }

    /// Runs `packaging/supabase/schema.sql`.
    pub(crate) fn apply_schema(&self) {
        let output = self.psql(&["-f", SCHEMA]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a statement as the superuser; its rows, with `|` between the columns.
    pub(crate) fn sql(&self, statement: &str) -> Vec<String> {
        text(&self.psql(&["-c", statement])).lines().map(str::to_owned).collect()
    }

    /// Runs a statement as a role that cannot log in.
    ///
    /// # Errors
    /// What the database says against it.
    pub(crate) fn sql_as(&self, role: &str, statement: &str) -> Result<(), String> {
        self.rows_as(role, statement).map(|_| ())
    }

    /// The same, with its rows.
    ///
    /// # Errors
    /// What the database says against it.
    pub(crate) fn rows_as(&self, role: &str, statement: &str) -> Result<Vec<String>, String> {
        let output = self.psql(&["-c", &format!("set role {role}"), "-c", statement]);
        if output.status.success() {
            Ok(text(&output).lines().map(str::to_owned).collect())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn psql(&self, arguments: &[&str]) -> Output {
        Command::new("psql")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"])
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .args(arguments)
            .output()
            .expect("psql starts")
    }

    fn data(&self) -> String {
        self.directory.join("data").display().to_string()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        as_postgres(&binary("pg_ctl"), &["-D", &self.data(), "-m", "immediate", "stop"]);
        std::fs::remove_dir_all(&self.directory).expect("the server is gone, and its directory can go");
    }
}

/// The gate and the REST API in front of a database.
pub(crate) struct Lite {
    process: Child,
    port: u16,
    directory: TempDir,
}

impl Lite {
    pub(crate) const SECRET_KEY: &str = "sb_secret_of_this_test";
    pub(crate) const PUBLISHABLE_KEY: &str = "sb_publishable_of_this_test";

    pub(crate) fn start(postgres: &Postgres) -> Self {
        assert!(Path::new(LITE).exists(), "{LITE} is not there: tests/run installs it");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        std::fs::create_dir(directory.path().join("supabase")).expect("an empty directory");
        let config = format!(
            "[api]\nport = {port}\n\
             [db]\ndriver = \"postgres\"\nurl = \"postgres://postgres@127.0.0.1:{}/postgres\"\n\
             [auth]\nenabled = true\njwt_secret = \"{JWT_SECRET}\"\n\
             publishable_key = \"{}\"\nsecret_key = \"{}\"\n",
            postgres.port,
            Self::PUBLISHABLE_KEY,
            Self::SECRET_KEY
        );
        std::fs::write(directory.path().join("supabase/config.toml"), config).expect("a file");
        let mut lite = Self { process: spawn(directory.path()), port, directory };
        lite.wait_until_it_serves();
        lite
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends it. Its port refuses connections then.
    pub(crate) fn stop(&mut self) {
        // It may have ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }

    /// Starts it again after [`Lite::stop`], on the same port.
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(self.directory.path());
        self.wait_until_it_serves();
    }

    /// A token of a role, signed as a project signs.
    pub(crate) fn token(role: &str) -> String {
        Self::token_with(role, "")
    }

    /// The same for the gateway, or the person, with this name.
    pub(crate) fn token_with(role: &str, name: &str) -> String {
        const SIGN: &str = "
            const part = object => Buffer.from(JSON.stringify(object)).toString('base64url');
            const [role, sub, secret] = process.argv.slice(1);
            const claims = { role, sub, gateway_id: sub, iat: 1, exp: 4102444800 };
            const body = part({ alg: 'HS256', typ: 'JWT' }) + '.' + part(claims);
            const mac = require('crypto').createHmac('sha256', secret).update(body).digest('base64url');
            process.stdout.write(body + '.' + mac);";
        text(&Command::new("node").args(["-e", SIGN, role, name, JWT_SECRET]).output().expect("node starts"))
    }

    fn wait_until_it_serves(&mut self) {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.process.try_wait().expect("a child can be asked");
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "lite: {ended:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        let mut log = String::new();
        let file = std::fs::File::open(self.directory.path().join("log"));
        file.and_then(|mut file| file.read_to_string(&mut log)).expect("its log");
        log
    }
}

impl Drop for Lite {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(directory: &Path) -> Child {
    let log = std::fs::File::create(directory.join("log")).expect("a file");
    Command::new("node")
        .args([LITE, "--no-telemetry", "start", "--no-admin"])
        .current_dir(directory)
        .env("LITE_TELEMETRY", "0")
        .env("SUPABASE_TELEMETRY_DISABLED", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("node starts")
}

/// PostgreSQL refuses to run as root: then Debian's user of that name runs it.
fn as_postgres(program: &str, arguments: &[&str]) -> Output {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", program]);
        command
    } else {
        Command::new(program)
    };
    let output = command.args(arguments).current_dir("/").stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Debian keeps the server's programs out of PATH.
fn binary(name: &str) -> String {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).find(|path| path.exists());
    found.map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.local_addr().expect("it is bound").port()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
