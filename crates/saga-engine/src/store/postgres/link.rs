//! A connection that is made anew when it breaks.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, task::JoinHandle, time};
use tokio_postgres::{Client, NoTls};

use super::{Options, sql::Statements};
use crate::store::Error;

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

pub(super) struct Link {
    options: Options,
    current: Mutex<Option<Arc<Connected>>>,
}

pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) sql: Statements,
    task: JoinHandle<()>,
}

impl Link {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            current: Mutex::default(),
        }
    }

    /// The connection; several ask over it at once.
    pub(super) async fn get(&self) -> Result<Arc<Connected>, Error> {
        let mut current = self.current.lock().await;
        if let Some(connected) = current.as_ref().filter(|connected| !connected.client.is_closed()) {
            return Ok(Arc::clone(connected));
        }
        let connected = match time::timeout(CONNECT, Connected::new(&self.options)).await {
            Ok(connected) => connected.map_err(|error| Error::Away(Box::new(error)))?,
            Err(late) => return Err(Error::Away(Box::new(late))),
        };
        Ok(Arc::clone(current.insert(Arc::new(connected))))
    }

    /// Waits for an answer, but not for ever: a connection that does not answer is given up, and the next who asks gets another.
    pub(super) async fn answer<T>(
        &self,
        asked: &Arc<Connected>,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match time::timeout(ANSWER, answer).await {
            Ok(answer) => answer.map_err(|error| Error::Away(Box::new(error))),
            Err(late) => {
                let mut current = self.current.lock().await;
                current.take_if(|connected| Arc::ptr_eq(connected, asked));
                Err(Error::Away(Box::new(late)))
            }
        }
    }
}

impl Connected {
    async fn new(options: &Options) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = options().connect(NoTls).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "a connection to the store broke");
            }
        });
        // What nobody waits for any more does not go on.
        let limit = format!("SET statement_timeout = {}", ANSWER.as_millis());
        client.batch_execute(&limit).await?;
        let sql = Statements::prepare(&client).await?;
        Ok(Self { client, sql, task })
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.task.abort();
    }
}
