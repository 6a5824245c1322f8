//! TLS: who proves to be a store of the cluster is served, whoever does not is refused.

use std::path::Path;

use peerstore::memory::MemoryData;
use peerstore::tcp::{Reason, TcpOptions, TcpTransport, TlsOptions};
use peerstore::{Error, StaticPlacement, Transport as _};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::support::*;

/// An authority, and the files of those it vouches for.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Authority { issuer, dir }
    }

    /// The files of a store whose certificate has `name`.
    fn named(&self, name: &str) -> TlsOptions {
        let params = CertificateParams::new(vec![name.to_string()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |ending: &str| self.dir.path().join(format!("{name}.{ending}"));
        std::fs::write(path("crt"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        TlsOptions {
            ca: self.dir.path().join("ca.pem"),
            cert: path("crt"),
            key: path("key"),
        }
    }

    fn store(&self, id: u64) -> TlsOptions {
        self.named(&TlsOptions::store_name(CLUSTER, id))
    }
}

fn store(id: u64, tls: Option<TlsOptions>) -> Store {
    Store::with(TcpOptions { tls, ..options(id) })
}

/// Sends a message from `one` to `two`, which is refused on both sides for these reasons.
#[track_caller]
fn assert_refused(one: &Store, two: &Store, reasons: [&[Reason]; 2]) {
    one.knows(two);
    one.send(two.id, numbered(5, one.id, two.id, 1, 1));
    one.inbox.wait(|seen| !seen.unreachable.is_empty());
    let ended = one.wait_stats(|stats| !stats.ended.is_empty()).ended;
    assert!(
        ended.keys().all(|reason| reasons[0].contains(reason)),
        "{ended:?}"
    );
    let refused = two.wait_stats(|stats| !stats.refused.is_empty()).refused;
    assert!(
        refused.keys().all(|reason| reasons[1].contains(reason)),
        "{refused:?}"
    );
    assert_eq!(
        (
            one.transport.stats().messages_sent,
            two.transport.stats().accepted
        ),
        (0, 0)
    );
    assert!(two.inbox.seen().messages.is_empty());
}

#[test]
fn messages_and_snapshots_go_through_tls() {
    let authority = Authority::new("ours");
    let [one, two] = [1, 2].map(|id| store(id, Some(authority.store(id))));
    one.knows(&two);
    two.knows(&one);
    for number in 0..1000 {
        one.send(2, numbered(5, 1, 2, number, 1000));
        two.send(1, numbered(5, 2, 1, number, 1000));
    }
    for store in [&one, &two] {
        let seen = store.inbox.when(|seen| seen.messages.len() == 1000);
        assert!(seen.messages.iter().map(|(_, m)| number_of(m)).eq(0..1000));
    }
    let info = write_snapshot(&*one.snapshots, 6, 3 << 20);
    let message = snapshot_message(&info, 1, 2, Vec::new());
    one.transport.send_snapshot(2, message, info.key);
    let seen = one.inbox.when(|seen| !seen.snapshots_sent.is_empty());
    assert!(seen.snapshots_sent[0].2);
}

#[test]
fn a_connection_in_tls_is_asked_whether_it_lives_and_survives_a_restart() {
    let authority = Authority::new("ours");
    let one = Store::with(TcpOptions {
        tls: Some(authority.store(1)),
        keepalive: std::time::Duration::from_millis(1),
        ..options(1)
    });
    let two = store(2, Some(authority.store(2)));
    one.knows(&two);
    for number in 0..50 {
        one.send(2, numbered(5, 1, 2, number, 10));
        two.inbox
            .wait(|seen| seen.messages.len() == number as usize + 1);
    }
    assert_eq!(one.transport.stats().connected, 1);
    two.transport.stop();
    let again = store(2, Some(authority.store(2)));
    one.knows(&again);
    while again.inbox.seen().messages.is_empty() {
        one.send(2, numbered(5, 1, 2, 99, 10));
        std::thread::yield_now();
    }
}

#[test]
fn a_store_of_another_authority_is_refused_on_both_sides() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let two = store(2, Some(ours.store(2)));
    assert_refused(
        &store(1, Some(theirs.store(1))),
        &two,
        [
            &[Reason::Tls, Reason::Unreachable],
            &[Reason::Tls, Reason::Closed],
        ],
    );
    // One that believes ours, and has a certificate of theirs.
    let mixed = TlsOptions {
        ca: ours.store(1).ca,
        ..theirs.store(1)
    };
    let two = store(2, Some(ours.store(2)));
    assert_refused(
        &store(1, Some(mixed)),
        &two,
        [&[Reason::Tls, Reason::Closed], &[Reason::Tls]],
    );
}

#[test]
fn a_certificate_of_another_store_lets_nobody_claim_to_be_this_one() {
    let authority = Authority::new("ours");
    // Store 3's certificate, in the hands of one who says that he is store 1.
    let two = store(2, Some(authority.store(2)));
    let liar = store(1, Some(authority.store(3)));
    assert_refused(&liar, &two, [&[Reason::Identity], &[Reason::Identity]]);
    // And of one who is dialled as store 1.
    let dialler = store(2, Some(authority.store(2)));
    let liar = store(1, Some(authority.store(3)));
    assert_refused(
        &dialler,
        &liar,
        [&[Reason::Tls], &[Reason::Tls, Reason::Closed]],
    );
    // The same store of another cluster.
    let other = authority.named(&TlsOptions::store_name(CLUSTER + 1, 1));
    let two = store(2, Some(authority.store(2)));
    assert_refused(
        &store(1, Some(other)),
        &two,
        [&[Reason::Identity], &[Reason::Identity]],
    );
}

#[test]
fn plain_and_tls_do_not_speak() {
    let authority = Authority::new("ours");
    let [plain, tls] = [(1, None), (2, Some(authority.store(2)))].map(|(id, t)| store(id, t));
    assert_refused(
        &plain,
        &tls,
        [&[Reason::Tls, Reason::Closed], &[Reason::Tls]],
    );
    let [plain, tls] = [(1, None), (2, Some(authority.store(2)))].map(|(id, t)| store(id, t));
    assert_refused(
        &tls,
        &plain,
        [&[Reason::Tls, Reason::Closed], &[Reason::Tls]],
    );
    // Both go on to serve their own.
    assert_serves(&plain);
    let other = store(3, Some(authority.store(3)));
    other.knows(&tls);
    other.send(2, numbered(5, 3, 2, 1, 1));
    tls.inbox.wait(|seen| seen.messages.len() == 1);
}

#[test]
fn garbage_to_a_listener_with_tls_is_refused() {
    let authority = Authority::new("ours");
    let tls = store(2, Some(authority.store(2)));
    for (count, bytes) in (1..).zip([
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 100],
        b"\x16\x03\x01\xff\xff",
    ]) {
        let mut client = Client::connect(&tls);
        client.write(bytes);
        client.finish_writing();
        assert!(client.is_closed());
        tls.wait_stats(|stats| stats.refused.values().sum::<u64>() == count);
    }
}

#[test]
fn files_that_cannot_be_used_are_a_config_error_that_names_them() {
    let authority = Authority::new("ours");
    let good = authority.store(1);
    let missing = authority.dir.path().join("missing.pem");
    let empty = authority.dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let other_key = authority.store(2).key;
    let bind = |tls: TlsOptions| {
        let app = std::sync::Arc::new(MemoryData::new());
        let placement = StaticPlacement::open(app, 1, Default::default()).unwrap();
        let options = TcpOptions {
            tls: Some(tls),
            ..options(1)
        };
        TcpTransport::bind(options, std::sync::Arc::new(placement)).err()
    };
    assert!(bind(good.clone()).is_none());
    for bad in [&missing, &empty, &other_key] {
        let wrong = [
            TlsOptions {
                ca: bad.clone(),
                ..good.clone()
            },
            TlsOptions {
                cert: bad.clone(),
                ..good.clone()
            },
            TlsOptions {
                key: bad.clone(),
                ..good.clone()
            },
        ];
        for tls in wrong {
            let error = bind(tls.clone()).expect("it cannot be used");
            let Error::Config {
                path: Some(path), ..
            } = &error
            else {
                panic!("{error}");
            };
            let named: [&Path; 2] = [bad, &good.cert];
            assert!(named.contains(&path.as_path()), "{error}");
        }
    }
}
