//! The process of one store: clients over TCP, until its parent is gone. Uses: node, protocol.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Outcome;
use super::node::{Node, Settings};
use super::protocol::{Answer, Failure, Reason, Request, Response, read_frame, write_frame};

/// What it writes to its parent when it serves: this, and its two addresses.
pub const READY: &str = "ready";
/// The demonstration has far fewer.
const CONNECTIONS_MAX: usize = 256;
/// Stopping takes less, or something hangs.
const STOP_TIME: Duration = Duration::from_secs(10);

/// Runs a store until its input ends: that is when the parent closes it, or dies in whatever way.
pub fn run(settings: &Settings) -> Outcome<()> {
    super::trace::start();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let node = Arc::new(Node::open(settings, None)?);
    let serving = Arc::clone(&node);
    std::thread::spawn(move || listen(&listener, &serving));
    let mut output = std::io::stdout();
    writeln!(output, "\n{READY} {address} {}", node.raft_address)?;
    output.flush()?;
    let mut input = std::io::stdin();
    let mut ignored = [0; 64];
    while input.read(&mut ignored).is_ok_and(|count| count > 0) {}
    std::thread::spawn(|| {
        std::thread::sleep(STOP_TIME);
        eprintln!("stopping takes longer than {STOP_TIME:?}");
        std::process::exit(3);
    });
    node.stop();
    Ok(())
}

fn listen(listener: &TcpListener, node: &Arc<Node>) {
    let connections = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if connections.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            connections.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (node, connections) = (Arc::clone(node), Arc::clone(&connections));
        std::thread::spawn(move || {
            // A client that is gone, or that says what cannot be read, is let go.
            let _ = serve(stream, &node);
            connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn serve(mut stream: TcpStream, node: &Node) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let request: Request = read_frame(&mut stream)?;
        let answer = match request.ask {
            Some(ask) => node.answer(ask),
            None => Answer::Failure(Failure {
                reason: Reason::Refused as i32,
                text: "this store does not know what was asked".into(),
                leader: None,
            }),
        };
        let answer = Some(answer);
        write_frame(&mut stream, &Response { answer })?;
    }
}
