//! What the supervisor's process does: it takes sealed jobs, runs each in a container of its own,
//! and answers with sealed outcomes.

use std::sync::Arc;

use toani_protocol::{ids::Hash, job::SandboxHello};
use tokio::{
    net::UnixStream,
    sync::{Semaphore, mpsc},
};

use crate::{
    driver::{Driver, Parked},
    execution::{self, Work},
    messages::{self, EXECUTIONS_AT_ONCE_MAX, FrameError, Message, Request},
    seal::{JobKey, OpenJob},
};

/// Serves one gateway until it closes the stream.
///
/// # Errors
/// The stream failed, or what came is no message.
pub async fn serve<D: Driver>(
    stream: UnixStream,
    driver: Arc<D>,
    key: Arc<JobKey>,
    measurement: Hash,
) -> Result<(), FrameError> {
    let (mut input, mut output) = stream.into_split();
    let hello = SandboxHello { measurement, key: key.public() };
    messages::write(&mut output, &Message::Hello(hello)).await?;

    let (answers, mut outgoing) = mpsc::channel::<Message>(EXECUTIONS_AT_ONCE_MAX);
    let writing = async {
        while let Some(message) = outgoing.recv().await {
            messages::write(&mut output, &message).await?;
        }
        Ok(())
    };
    let room = Arc::new(Semaphore::new(EXECUTIONS_AT_ONCE_MAX));
    let reading = async {
        loop {
            let request = match messages::read::<Request>(&mut input).await {
                Ok(request) => request,
                Err(FrameError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            };
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return Ok(());
            };
            let (driver, key, answers) = (Arc::clone(&driver), Arc::clone(&key), answers.clone());
            tokio::spawn(async move {
                if let Some(message) = answer(&*driver, &key, request).await {
                    // Nobody is left to be told if this fails; the gateway knows the job as lost.
                    let _ = answers.send(message).await;
                }
                drop(permit);
            });
        }
    };
    tokio::select! {
        end = writing => end,
        end = reading => end,
    }
}

/// `None` if the outcome cannot be sealed: then nobody may be told that nothing happened.
async fn answer<D: Driver>(driver: &D, key: &JobKey, request: Request) -> Option<Message> {
    let id = request.id;
    let OpenJob { header, job, answer } = match key.open(&request.job) {
        Ok(open) => open,
        Err(reason) => return Some(Message::Refused { id, reason }),
    };
    let outcome = match Work::new(job) {
        None => execution::not_run(),
        Some(work) => match driver.prepare(work.class()).await {
            Ok(parked) => parked.run(work).await,
            Err(error) => {
                log(&format!("execution {}: {error}", header.execution));
                execution::not_run()
            }
        },
    };
    let outcome = answer.seal(&outcome)?;
    Some(Message::Outcome { id, outcome })
}

/// One line on the process's log. Never a byte of a job.
pub fn log(line: &str) {
    use std::io::Write;
    // A log that cannot be written must not end an execution.
    let _ = writeln!(std::io::stderr(), "toani-sandbox: {line}");
}
