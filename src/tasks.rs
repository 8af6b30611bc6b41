//! The one place that spawns tasks. Each has a name and a stage; one that ends unexpectedly is
//! named and ends the process; at the end the stages are drained in the order of the path.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where on the path a task works. Drained in this order: first nothing new comes in, then what came goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Accepting connections.
    Listener,
    /// Serving them.
    Sessions,
    /// Sending readings on.
    Forwarders,
    /// Everything that watches the others.
    Service,
}

const STAGES: [Stage; 4] = [Stage::Listener, Stage::Sessions, Stage::Forwarders, Stage::Service];

/// A task that had to run until the end and did not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the task \"{name}\" {how}")]
pub struct Failed {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub how: String,
}

/// All tasks of a process.
#[derive(Debug)]
pub struct Tasks {
    stages: [StageTasks; STAGES.len()],
    failures: mpsc::Receiver<Failed>,
    report: mpsc::Sender<Failed>,
}

#[derive(Debug, Clone, Default)]
struct StageTasks {
    cancel: CancellationToken,
    tracker: TaskTracker,
    /// The runtime of its own, if it has one; otherwise whichever the caller is on.
    runtime: Option<Handle>,
}

impl StageTasks {
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.runtime {
            Some(runtime) => self.tracker.spawn_on(task, runtime),
            None => self.tracker.spawn(task),
        };
    }
}

/// Spawns tasks of one stage. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spawner {
    tasks: StageTasks,
    report: mpsc::Sender<Failed>,
}

impl Default for Tasks {
    fn default() -> Self {
        let (report, failures) = mpsc::channel(16);
        Self { stages: std::array::from_fn(|_| StageTasks::default()), failures, report }
    }
}

impl Tasks {
    /// Everything behind the buffer runs on a runtime of its own: what a sink does, however long it computes,
    /// takes no time from the sessions.
    #[must_use]
    pub fn with_background(runtime: &Handle) -> Self {
        let mut tasks = Self::default();
        for stage in [Stage::Forwarders, Stage::Service] {
            tasks.stages[stage as usize].runtime = Some(runtime.clone());
        }
        tasks
    }

    /// A spawner for one stage.
    #[must_use]
    pub fn spawner(&self, stage: Stage) -> Spawner {
        Spawner { tasks: self.stages[stage as usize].clone(), report: self.report.clone() }
    }

    /// Resolves when a task that had to run until the end did not.
    pub async fn failure(&mut self) -> Failed {
        self.failures.recv().await.expect("a sender is kept in self")
    }

    /// Tells each stage to end, in order, and waits for it. All of them together get `deadline`.
    /// Returns the stages that were not done by then.
    pub async fn drain(&mut self, deadline: Duration) -> Vec<Stage> {
        let end = Instant::now() + deadline;
        let mut late = Vec::new();
        for stage in STAGES {
            let StageTasks { cancel, tracker, .. } = &self.stages[stage as usize];
            cancel.cancel();
            tracker.close();
            if tokio::time::timeout_at(end, tracker.wait()).await.is_err() {
                late.push(stage);
            }
        }
        late
    }
}

impl Spawner {
    /// The token that tells this stage's tasks to end.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.tasks.cancel
    }

    /// Spawns a task that must run until its stage is told to end.
    pub fn essential<F>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let (report, cancel) = (self.report.clone(), self.tasks.cancel.clone());
        self.tasks.spawn(async move {
            let how = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) if cancel.is_cancelled() => return,
                Ok(()) => "ended",
                Err(_) => "panicked",
            };
            // A full channel means that the process is already ending for another's failure.
            report.try_send(Failed { name, how: how.to_owned() }).ok();
        });
    }

    /// Spawns a task that may end at any time, such as one that serves a connection.
    /// A panic in it is its own: the panic hook has logged it.
    pub fn passing<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_essential_task_that_ends_is_named() {
        let mut tasks = Tasks::default();
        tasks.spawner(Stage::Service).essential("clock", async {});
        let failed = tasks.failure().await;
        assert_eq!(failed.to_string(), "the task \"clock\" ended");
    }

    #[tokio::test]
    async fn a_panic_is_named_too() {
        let mut tasks = Tasks::default();
        tasks.spawner(Stage::Forwarders).essential("forwarder cloud", async { panic!("on purpose") });
        assert_eq!(tasks.failure().await.how, "panicked");
    }

    #[test]
    fn what_is_behind_the_buffer_runs_on_its_own_runtime() {
        let build = |name: &str| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.thread_name(name).worker_threads(1).build().unwrap()
        };
        let (sessions, background) = (build("sessions"), build("background"));
        let tasks = Tasks::with_background(background.handle());
        let (name, names) = std::sync::mpsc::sync_channel(4);
        for stage in STAGES {
            let name = name.clone();
            let task =
                async move { name.send((stage, std::thread::current().name().map(str::to_owned))).unwrap() };
            sessions.block_on(async { tasks.spawner(stage).passing(task) });
        }
        for _ in STAGES {
            let (stage, name) = names.recv().unwrap();
            let expected = if stage < Stage::Forwarders { "sessions" } else { "background" };
            assert_eq!(name.as_deref(), Some(expected), "{stage:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stages_are_drained_in_the_order_of_the_path_and_late_ones_are_named() {
        let mut tasks = Tasks::default();
        let listener = tasks.spawner(Stage::Listener);
        let sessions = tasks.spawner(Stage::Sessions);
        let (told, later) = (listener.cancelled().clone(), sessions.cancelled().clone());
        listener.essential("listener", async move {
            told.cancelled().await;
            assert!(!later.is_cancelled(), "sessions end after the listener");
        });
        sessions.passing(std::future::pending());
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, [Stage::Sessions]);
    }
}
