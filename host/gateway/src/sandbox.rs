//! The supervisor: started, connected to the enclave, started anew when it dies.

use std::{sync::Arc, time::Duration};

use toani_protocol::{
    Reason,
    job::{SandboxHello, SealedJob, SealedOutcome},
    wire::{Answer, Command},
};
use toani_sandbox::{SpawnError, SupervisorClient, SupervisorPaths};
use tokio::sync::watch;

use crate::plane::Plane;

const BACKOFF_MS_MIN: u64 = 100;
const BACKOFF_MS_MAX: u64 = 2_000;

/// The supervisor that is connected, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Sandbox {
    connected: watch::Sender<Option<SupervisorClient>>,
}

impl Sandbox {
    /// Runs one job. Without an outcome nobody knows what happened.
    pub(crate) async fn run(&self, job: SealedJob, limit: Duration) -> Option<SealedOutcome> {
        let client = self.connected.borrow().clone()?;
        match client.run(job, limit).await {
            Ok(outcome) => Some(outcome),
            Err(error) => {
                tracing::warn!(%error, "a job has no outcome");
                None
            }
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.borrow().is_some()
    }
}

/// Starts the first supervisor. What it cannot isolate here, no later one can.
pub(crate) async fn first(
    paths: &SupervisorPaths,
) -> Result<(SupervisorClient, SandboxHello), SpawnError> {
    SupervisorClient::spawn(paths).await
}

/// Keeps a supervisor connected until the boot is over.
pub(crate) async fn keep(
    plane: Arc<Plane>,
    paths: SupervisorPaths,
    first: (SupervisorClient, SandboxHello),
) {
    let mut next = Some(first);
    let mut backoff_ms = BACKOFF_MS_MIN;
    loop {
        let spawned = match next.take() {
            Some(spawned) => Ok(spawned),
            None => SupervisorClient::spawn(&paths).await,
        };
        match spawned {
            Ok((client, hello)) => {
                let alive = tokio::time::Instant::now();
                attend(&plane, client, hello).await;
                let lived = alive.elapsed();
                if lived > Duration::from_millis(BACKOFF_MS_MAX) {
                    backoff_ms = BACKOFF_MS_MIN;
                }
            }
            Err(error) => tracing::error!(%error, "the supervisor cannot be started"),
        }
        tokio::time::sleep(Duration::from_millis(backoff_ms)).await;
        backoff_ms = (backoff_ms * 2).min(BACKOFF_MS_MAX);
    }
}

/// Connects one supervisor and waits for its end. Its jobs end with it, each by `Finish(None)`.
async fn attend(plane: &Arc<Plane>, client: SupervisorClient, hello: SandboxHello) {
    let mut admitted = std::pin::pin!(plane.admitted().notified());
    loop {
        let command = Command::ConnectSandbox { hello: hello.clone() };
        match plane.answer(command).await {
            Ok(Answer::Done) => break,
            Ok(_) => {}
            Err(problem) if problem.code() == Reason::SandboxNotAdmitted.code() => {
                tracing::warn!(
                    measurement = %hello.measurement,
                    "the supervisor is not admitted; it waits for an admission list that names it: \
                     toani admission admit --sandbox"
                );
            }
            Err(problem) => tracing::error!(code = problem.code(), "no sandbox is connected"),
        }
        tokio::select! {
            () = admitted.as_mut() => admitted.set(plane.admitted().notified()),
            () = client.gone() => return,
        }
    }
    plane.sandbox().connected.send_replace(Some(client.clone()));
    client.gone().await;
    plane.sandbox().connected.send_replace(None);
    tracing::error!("the supervisor is lost; another one is started");
    // The enclave stops sealing jobs to a key that nobody holds any more.
    let _ = plane.call(Command::DisconnectSandbox).await;
}
