//! TLS 1.3 with both sides authenticated by rustls: the certificate of a store names the store.

use std::path::Path;
use std::sync::Arc;

use rustls::client::{Resumption, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use super::TlsOptions;
use super::reason::{Reason, Refusal};
use super::socket::{Duplex, Socket};
use crate::error::{Error, Result};

/// The two roles of a store, with its certificate.
pub(super) struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// # Errors
    /// `Config` with the file, if one cannot be read or used.
    pub fn open(options: &TlsOptions) -> Result<Tls> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&options.ca)? {
            roots.add(certificate).map_err(|e| refuse(&options.ca, e))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&options.cert)?;
        let key =
            PrivateKeyDer::from_pem_file(&options.key).map_err(|e| refuse(&options.key, e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|e| refuse(&options.ca, e))?;
        let in_cert = |e| refuse(&options.cert, e);
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(in_cert)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(in_cert)?;
        // Each connection proves who it is: nothing is resumed.
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(in_cert)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(in_cert)?;
        client.resumption = Resumption::disabled();
        Ok(Tls {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }

    /// Speaks TLS to the store that was dialled; whoever cannot prove to be it is refused.
    pub fn connect(
        &self,
        mut socket: Socket,
        cluster_id: u64,
        store_id: u64,
    ) -> Result<Box<dyn Duplex>, Refusal> {
        let name = server_name(cluster_id, store_id)?;
        let mut tls = ClientConnection::new(Arc::clone(&self.client), name).map_err(failed)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Box::new(StreamOwned::new(tls, socket)))
    }

    /// Speaks TLS to whoever dialled; [`Duplex::check_identity`] then says whether it is who it claims.
    pub fn accept(&self, mut socket: Socket) -> Result<Box<dyn Duplex>, Refusal> {
        let mut tls = ServerConnection::new(Arc::clone(&self.server)).map_err(failed)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Box::new(StreamOwned::new(tls, socket)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).map_err(|e| refuse(path, e))?;
    let found: Vec<_> = (found.collect::<Result<_, _>>()).map_err(|e| refuse(path, e))?;
    if found.is_empty() {
        return Err(refuse(path, "no certificate in it"));
    }
    Ok(found)
}

fn refuse(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Config {
        path: Some(path.to_path_buf()),
        message: format!("cannot be used for TLS: {what}"),
    }
}

fn failed(error: rustls::Error) -> Refusal {
    Refusal::new(Reason::Tls, error.to_string())
}

fn server_name(cluster_id: u64, store_id: u64) -> Result<ServerName<'static>, Refusal> {
    let name = TlsOptions::store_name(cluster_id, store_id);
    ServerName::try_from(name).map_err(|e| Refusal::new(Reason::Tls, e.to_string()))
}

impl Duplex for StreamOwned<ClientConnection, Socket> {
    fn socket(&mut self) -> &mut Socket {
        &mut self.sock
    }
}

impl Duplex for StreamOwned<ServerConnection, Socket> {
    fn socket(&mut self) -> &mut Socket {
        &mut self.sock
    }

    fn check_identity(&self, cluster_id: u64, store_id: u64) -> Result<(), Refusal> {
        let chain = self.conn.peer_certificates().unwrap_or_default();
        let certificate = chain
            .first()
            .ok_or_else(|| Refusal::new(Reason::Identity, "it has no certificate, expected one"))?;
        let parsed = ParsedCertificate::try_from(certificate).map_err(failed)?;
        let name = server_name(cluster_id, store_id)?;
        verify_server_name(&parsed, &name)
            .map_err(|e| Refusal::new(Reason::Identity, e.to_string()))
    }
}
