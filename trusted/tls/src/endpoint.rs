//! One side's endpoint for a whole boot: who it is, and how it speaks TLS.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::fmt;

use rustls::{
    ClientConfig, ServerConfig, client::Resumption, server::NoServerSessionStorage,
    sign::SingleCertAndKey, version::TLS13,
};
use toani_protocol::{Hash, evidence::Role};

use crate::{
    binding::Core,
    certificate::Certificate,
    channel::{Handshake, Next, Step},
    error::{ChannelError, Failure},
    provider::{NoClock, provider},
    pump::Pump,
    verifier::{PeerCheck, ShapeVerifier},
};

/// One side, for all the channels of its boot. The enclave is TLS's client, the sandbox its server.
pub struct Endpoint<C> {
    role: Role,
    manifest: Hash,
    own_key: Hash,
    config: Config,
    check: Arc<C>,
}

enum Config {
    Client(Box<ClientConfig>),
    Server(Box<ServerConfig>),
}

impl<C: PeerCheck> Endpoint<C> {
    /// `certificate` is what this side shows; `check` judges what the peer shows.
    pub fn new(
        role: Role,
        manifest: Hash,
        certificate: &Certificate,
        check: Arc<C>,
    ) -> Result<Self, ChannelError> {
        let config = match role {
            Role::Enclave => Config::Client(Box::new(client_config(certificate)?)),
            Role::Sandbox => Config::Server(Box::new(server_config(certificate)?)),
        };
        let own_key = certificate.key().spki_hash();
        Ok(Self { role, manifest, own_key, config, check })
    }

    /// A new connection. The enclave's begins with bytes to send, the sandbox's waits for them.
    pub fn start(&self) -> Result<Step<C>, Failure> {
        let pump = match &self.config {
            Config::Client(config) => Pump::client(config.as_ref().clone()),
            Config::Server(config) => Pump::server(config.as_ref().clone()),
        };
        let mut core = Core {
            role: self.role,
            manifest: self.manifest,
            own_key: self.own_key,
            check: self.check.clone(),
            pump: Box::new(pump?),
        };
        let output = core.take_output();
        Ok(Step { output, messages: Vec::new(), next: Next::Handshake(Handshake(core)) })
    }
}

impl<C> fmt::Debug for Endpoint<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("role", &self.role).finish_non_exhaustive()
    }
}

// A connection proves who is there now. Nothing of it may be used to come back without proof, so
// there are no tickets, no stored sessions and no early data; and what the peer sends is not
// unpacked, so there is no compression of certificates.

fn client_config(certificate: &Certificate) -> Result<ClientConfig, ChannelError> {
    let resolver = SingleCertAndKey::from(certificate.certified_key());
    let builder = ClientConfig::builder_with_details(provider().into(), Arc::new(NoClock));
    let mut config = builder
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ShapeVerifier))
        .with_client_cert_resolver(Arc::new(resolver));
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.cert_decompressors = Vec::new();
    config.cert_compressors = Vec::new();
    Ok(config)
}

fn server_config(certificate: &Certificate) -> Result<ServerConfig, ChannelError> {
    let resolver = SingleCertAndKey::from(certificate.certified_key());
    let builder = ServerConfig::builder_with_details(provider().into(), Arc::new(NoClock));
    let mut config = builder
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(ShapeVerifier))
        .with_cert_resolver(Arc::new(resolver));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.cert_decompressors = Vec::new();
    config.cert_compressors = Vec::new();
    Ok(config)
}
