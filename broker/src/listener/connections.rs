//! Accepting connections, no more at a time than are wanted, and none that says nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Between two tries to accept when the process has no file handles left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bounded listener. More connections than fit wait in the kernel's backlog.
pub(crate) struct Connections {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    within: Duration,
    bytes: usize,
}

impl Connections {
    /// At most `most` connections at a time; each fails unless `bytes` were read from it `within`
    /// this time of accepting it.
    pub(crate) fn new(listener: TcpListener, most: usize, within: Duration, bytes: usize) -> Self {
        Self { listener, slots: Arc::new(Semaphore::new(most)), within, bytes }
    }

    pub(crate) async fn accept(&self) -> (Connection, SocketAddr) {
        let slots = self.slots.clone();
        let slot = slots.acquire_owned().await.expect("the semaphore is never closed");
        loop {
            let accepted = self.listener.accept().await;
            match accepted
                .and_then(|(stream, peer)| stream.set_nodelay(true).map(|()| (stream, peer)))
            {
                Ok((stream, peer)) => {
                    let deadline = Some(Box::pin(tokio::time::sleep(self.within)));
                    return (
                        Connection { stream, deadline, wanted: self.bytes, _slot: slot },
                        peer,
                    );
                }
                Err(error) => {
                    tracing::debug!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails once its time is over.
pub(crate) struct Connection {
    stream: TcpStream,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes that must be read before the deadline is lifted.
    wanted: usize,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().map(|deadline| deadline.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Err(io::ErrorKind::TimedOut.into()),
            Some(Poll::Pending) | None => Ok(()),
        }
    }
}

impl Connection {
    /// The address of ours that it came to.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.deadline.is_some() {
            self.wanted = self.wanted.saturating_sub(buf.filled().len() - before);
            if self.wanted == 0 {
                self.deadline = None;
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
