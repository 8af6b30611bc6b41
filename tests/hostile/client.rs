//! A client that says whatever it is told to.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::harness::PATIENCE;
use crate::packet::{Hello, PING, Received};

/// Where those are who behave.
pub(crate) const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A TCP connection from an address of this machine.
pub(crate) fn tcp(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(to) = to else { panic!("{to} is not on this machine") };
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(from, 0))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A TLS connection.
pub(crate) struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    input: Vec<u8>,
}

impl Client {
    /// A connection over which no MQTT was spoken yet.
    pub(crate) fn open(from: Ipv4Addr, to: SocketAddr, tls: &Arc<ClientConfig>) -> io::Result<Self> {
        let server = ServerName::try_from("localhost").expect("it is a name");
        let connection = ClientConnection::new(Arc::clone(tls), server).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, tcp(from, to)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream, input: Vec::new() })
    }

    /// A connection that was let in, and the CONNACK.
    pub(crate) fn try_connect(
        from: Ipv4Addr,
        to: SocketAddr,
        tls: &Arc<ClientConfig>,
        hello: &Hello,
    ) -> io::Result<(Self, Received)> {
        let mut client = Self::open(from, to, tls)?;
        client.try_send(&hello.packet())?;
        let connack = client.try_receive()?;
        assert_eq!(connack.first, 0x20, "{connack:?} is no CONNACK");
        match connack.body[1] {
            0 => Ok((client, connack)),
            code => Err(io::Error::other(format!("CONNACK with {code:#04x}"))),
        }
    }

    pub(crate) fn connect(to: SocketAddr, tls: &Arc<ClientConfig>, hello: &Hello) -> Self {
        let connected = Self::try_connect(HOME, to, tls, hello);
        connected.unwrap_or_else(|error| panic!("{:?} is not let in: {error}", hello.client_id)).0
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the gateway takes it");
    }

    /// The next packet; an error when none comes in time, or the connection ends.
    pub(crate) fn try_receive(&mut self) -> io::Result<Received> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(packet) = self.take_packet() {
                return Ok(packet);
            }
            self.read(deadline)?;
        }
    }

    /// So many bytes, whatever they mean.
    pub(crate) fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        while self.input.len() < count {
            self.read(deadline)?;
        }
        let rest = self.input.split_off(count);
        Ok(std::mem::replace(&mut self.input, rest))
    }

    pub(crate) fn receive(&mut self) -> Received {
        self.try_receive().expect("a packet comes")
    }

    /// The next packet is of this kind.
    pub(crate) fn expect(&mut self, kind: u8) -> Received {
        let packet = self.receive();
        assert_eq!(packet.kind(), kind, "{packet:?}");
        packet
    }

    /// Everything that came before this was answered; publishes that come meanwhile are left aside.
    pub(crate) fn ping(&mut self) {
        self.send(PING);
        while self.receive().kind() != 13 {}
    }

    /// The gateway ends the connection; what it says before.
    pub(crate) fn expect_end(&mut self) -> Vec<Received> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            said.extend(std::iter::from_fn(|| self.take_packet()));
            match self.read(deadline) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    panic!("it does not end, after {said:?}")
                }
                Err(_) => return said,
            }
        }
    }

    /// The gateway ends it with this reason (5.0).
    pub(crate) fn expect_disconnect(&mut self, reason: u8) {
        let said = self.expect_end();
        let last = said.last().unwrap_or_else(|| panic!("nothing was said instead of {reason:#04x}"));
        assert_eq!((last.first, last.body[0]), (0xe0, reason), "{said:?}");
    }

    /// Reads what there is until nothing more comes for so long. Whether the connection lives.
    pub(crate) fn drain(&mut self, silence: Duration) -> bool {
        self.stream.sock.set_read_timeout(Some(silence)).expect("a socket has a timeout");
        let mut space = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut space) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
    }

    /// The bytes below TLS.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        &mut self.stream.sock
    }

    fn read(&mut self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.sock.set_read_timeout(Some(left))?;
        let mut space = [0; 16 * 1024];
        match self.stream.read(&mut space) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.input.extend_from_slice(&space[..count]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }

    fn take_packet(&mut self) -> Option<Received> {
        let mut length = 0;
        for (i, byte) in self.input.iter().skip(1).take(4).enumerate() {
            length |= usize::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                let total = 2 + i + length;
                if self.input.len() < total {
                    return None;
                }
                let rest = self.input.split_off(total);
                let packet = std::mem::replace(&mut self.input, rest);
                return Some(Received { first: packet[0], body: packet[2 + i..].to_vec() });
            }
        }
        None
    }
}
