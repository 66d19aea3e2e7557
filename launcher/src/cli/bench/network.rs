//! The way between the host and a sandbox, measured from the host: `inside.py`
//! answers. Blocking; meant for a thread of its own.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Per direction.
const MIB: u8 = 128;
const MIB_QUICK: u8 = 48;
const QUESTIONS: usize = 500;
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Network {
    /// One byte there and back, median.
    pub latency_us: f64,
    pub to_sandbox_mib_s: f64,
    pub from_sandbox_mib_s: f64,
}

pub fn measure(server: SocketAddr, quick: bool) -> io::Result<Network> {
    let mib = if quick { MIB_QUICK } else { MIB };
    let measured = Network {
        latency_us: latency(server)?,
        to_sandbox_mib_s: f64::from(mib) / send(server, mib)?,
        from_sandbox_mib_s: f64::from(mib) / receive(server, mib)?,
    };
    Ok(measured)
}

/// Lets `inside.py` go on to what it measures by itself.
pub fn end(server: SocketAddr) -> io::Result<()> {
    order(server, b"q").map(|_| ())
}

fn order(server: SocketAddr, what: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(what)?;
    Ok(stream)
}

fn latency(server: SocketAddr) -> io::Result<f64> {
    let mut stream = order(server, b"p")?;
    let mut taken = Vec::with_capacity(QUESTIONS);
    for _ in 0..QUESTIONS {
        let since = Instant::now();
        stream.write_all(b"p")?;
        stream.read_exact(&mut [0])?;
        taken.push(since.elapsed());
    }
    taken.sort_unstable();
    Ok(taken[QUESTIONS / 2].as_secs_f64() * 1e6)
}

/// Seconds until the other side says that it has everything.
fn send(server: SocketAddr, mib: u8) -> io::Result<f64> {
    let block = vec![0; 1 << 20];
    let mut stream = order(server, b"u")?;
    let since = Instant::now();
    for _ in 0..mib {
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok(since.elapsed().as_secs_f64())
}

fn receive(server: SocketAddr, mib: u8) -> io::Result<f64> {
    let mut stream = order(server, &[b'd', mib])?;
    let since = Instant::now();
    let mut block = vec![0; 1 << 20];
    let mut left = usize::from(mib) << 20;
    while left > 0 {
        match stream.read(&mut block)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => left = left.saturating_sub(count),
        }
    }
    Ok(since.elapsed().as_secs_f64())
}
