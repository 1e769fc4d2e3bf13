//! What a job needs first is done once before there is one, so that the job does not wait for it:
//! where a kernel in user space maps pages, the first touch of each is dear.

use std::sync::Arc;

use rustix::mm::{MlockAllFlags, mlockall};
use rustls::ClientConnection;
use rustls_pki_types::ServerName;
use toani_protocol::{
    canonical,
    ids::Hash,
    job::Job,
    plan::Plan,
    policy::{Class, Connector, Endpoint, Injection, Method, TlsTrust},
};

use crate::direct_api;

/// Reads a plan, makes a request and the first message of a handshake, and throws all of it away.
pub fn rehearse() {
    let plan = canonical::encode(&plan()).unwrap_or_default();
    let job = Job { plan, credential: b"rehearsal".to_vec() };
    let Some(prepared) = direct_api::prepare(&job) else { return };
    let Ok(name) = ServerName::try_from("rehearsal") else { return };
    if let Ok(mut tls) = ClientConnection::new(Arc::new(prepared.tls), name) {
        // To memory: it cannot fail, and nobody reads it.
        let _ = tls.write_tls(&mut Vec::new());
    }
    // The rest of the program's pages, where this may be asked for.
    let _ = mlockall(MlockAllFlags::CURRENT);
}

fn plan() -> Plan {
    Plan {
        connector: Connector::DirectApi,
        method: Method::Get,
        endpoint: Endpoint { host: "rehearsal".into(), port: 443, private: false },
        path: "/".into(),
        query: Vec::new(),
        headers: Default::default(),
        body: None,
        injection: Some(Injection::Bearer),
        tls: TlsTrust::SpkiSha256(vec![Hash::of(b"")]),
        success: None,
        class: Class::default(),
        nonce: Hash::of(b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_to_its_end() {
        let job =
            Job { plan: canonical::encode(&plan()).unwrap(), credential: b"rehearsal".to_vec() };
        assert!(direct_api::prepare(&job).is_some());
        rehearse();
    }
}
