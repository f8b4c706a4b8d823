//! WebSocket: after a 101 both connections carry bytes, not HTTP, and the proxy copies them.
//!
//! Only an HTTP/1.1 request for `websocket` gets here, and the tunnel opens only after the service has said 101: opening
//! it earlier lets a caller smuggle a second request past every policy. Any other protocol named in `Upgrade` is removed,
//! so the service answers in plain HTTP.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::{
    body::{Request, Response},
    connection::Busy,
    hygiene::WantsWebSocket,
};

/// The caller's end of a tunnel to be, and what keeps its connection from looking idle.
pub(crate) struct Caller {
    end: OnUpgrade,
    busy: Option<Busy>,
}

/// Takes the caller's end from a request that asks for a tunnel.
pub(crate) fn prepare(request: &mut Request) -> Option<Caller> {
    request.extensions().get::<WantsWebSocket>()?;
    let busy = request.extensions().get::<Busy>().cloned();
    Some(Caller {
        end: hyper::upgrade::on(request),
        busy,
    })
}

/// Joins both ends if the service agreed.
pub(crate) fn connect(caller: Option<Caller>, response: &mut Response) {
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let Some(caller) = caller else { return };
    let service = hyper::upgrade::on(response);
    tokio::spawn(async move {
        // The tunnel is a request in flight until it ends.
        let _busy = caller.busy;
        let (caller, service) = match tokio::try_join!(caller.end, service) {
            Ok(ends) => ends,
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "failed to switch protocols"
                );
                return;
            }
        };
        let (mut caller, mut service) = (TokioIo::new(caller), TokioIo::new(service));
        // Either end may leave as it likes.
        let _ = tokio::io::copy_bidirectional(&mut caller, &mut service).await;
    });
}
