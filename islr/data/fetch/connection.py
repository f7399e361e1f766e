"""Connections that reach public addresses only and cannot outlast their deadline.

urllib3 speaks HTTP, TLS and proxies. It resolves names itself and times each read alone, so a name could lead into the
local network and a host that sends one byte at a time could hold a worker for ever. Two hooks mend that: the address is
resolved, checked and connected to here, before any TLS hello, and every read of the socket gets what is left of the
exchange's time.
"""

import functools
import io
import ipaddress
import socket
import ssl
import time
import urllib.parse
import urllib.request
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from islr.data.fetch import table
from islr.data.fetch.failure import FetchFailure, TransferLimits

SLOWEST_BYTES_PER_S = 1000  # a clip of a megabyte would take longer than anybody waits
LONGEST_EXCHANGE_S = 3600.0  # whatever comes; the next attempt continues the file where the host lets it
_HEAD_BYTES = 1 << 18  # status line and headers, interim answers and redirects included
_FRAMING = 2  # raw bytes per byte of content that chunk sizes and trailers may add up to
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ExchangeClock:
    """Time and bytes that one exchange may take, redirects included.

    The head of the answer must come within `timeout` seconds. In the body, every `SLOWEST_BYTES_PER_S` bytes buy
    another second, and no silence may last longer than `timeout`. The whole lasts `LONGEST_EXCHANGE_S` at most.
    """

    def __init__(self, limits: TransferLimits) -> None:
        self._timeout = limits.timeout
        self._most_bytes = _HEAD_BYTES + _FRAMING * limits.max_bytes
        self._began = time.monotonic()
        self._body_from: int | None = None  # bytes of the head, once it has come
        self.received = 0

    def begin_body(self) -> None:
        """Note that the head of the answer has come."""
        self._body_from = self.received

    def left(self) -> float:
        """Return the seconds that the next operation may take.

        Raises:
            TimeoutError: None are left.
        """
        bought = 0 if self._body_from is None else (self.received - self._body_from) / SLOWEST_BYTES_PER_S
        spent = time.monotonic() - self._began
        left = min(self._timeout + bought, LONGEST_EXCHANGE_S) - spent
        if left <= 0:
            raise TimeoutError(f"{self.received} bytes in {spent:.0f} s")
        return min(left, self._timeout)

    def count(self, received: int) -> None:
        """Count received bytes.

        Raises:
            FetchFailure: They are more than any answer needs.
        """
        self.received += received
        if self._body_from is None and self.received > _HEAD_BYTES:
            raise FetchFailure(table.SERVER_ERROR, f"the head of the answer exceeds {_HEAD_BYTES} bytes", of_host=True)
        if self.received > self._most_bytes:
            raise FetchFailure(table.TOO_LARGE, f"more than {self._most_bytes} bytes on the wire")


class _TimedReader(io.RawIOBase):
    """The bytes of a socket, each read within what the clock leaves."""

    def __init__(self, sock: socket.socket, clock: ExchangeClock) -> None:
        self._sock, self._clock = sock, clock
        self._file: Any = sock.makefile("rb", buffering=0)  # keeps the socket open until the answer is read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._clock.left())
        received = self._file.readinto(buffer)
        self._clock.count(received or 0)
        return received

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _TimedSocket:
    """A socket whose `makefile`, which http.client reads answers from, obeys a clock."""

    def __init__(self, sock: socket.socket, clock: ExchangeClock) -> None:
        self._sock, self._clock = sock, clock

    def makefile(self, mode: str, *_: Any, **__: Any) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_TimedReader(self._sock, self._clock))

    def sendall(self, data: Any) -> None:
        self._sock.settimeout(self._clock.left())
        self._sock.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Timed(HTTPConnection):
    """A connection to a checked address, on a clock."""

    def __init__(self, *args: Any, clock: ExchangeClock, public_only: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock, self._public_only = clock, public_only

    def _new_conn(self) -> Any:
        sock = connect(self.host, self.port, self._clock, self._public_only)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _TimedSocket(sock, self._clock)

    def connect(self) -> None:
        super().connect()
        if not isinstance(self.sock, _TimedSocket):  # TLS has taken the plain socket's place
            self.sock: Any = _TimedSocket(self.sock, self._clock)


class _TimedTls(_Timed, HTTPSConnection):
    """The same over TLS."""


def connect(host: str, port: int, clock: ExchangeClock, public_only: bool) -> socket.socket:
    """Connect to the first address of a host that answers.

    Raises:
        FetchFailure: All its addresses belong to this machine, the local network, or a cloud's own services.
        OSError: The name does not resolve, or no address answers.
    """
    error: Exception | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if public_only and not is_public(str(address[0])):
            error = error or FetchFailure(table.BAD_LINK, f"leads to the private address {address[0]}")
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(clock.left())
            sock.connect(address)
        except OSError as refused:
            sock.close()
            error = refused
        else:
            return sock
    raise error or OSError(f"{host} has no address")


def is_public(text: str) -> bool:
    """Return whether an address is one of the public internet, also where it wraps one of IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    inner = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return (inner or address).is_global and not address.is_multicast


def request(url: str, headers: dict[str, str], limits: TransferLimits, clock: ExchangeClock) -> Any:
    """Send one GET request, straight or through the environment's proxy; follow and retry nothing.

    Behind a proxy it is the proxy that resolves names and decides which addresses it reaches.

    Raises:
        FetchFailure: The host has no public address.
        urllib3.exceptions.HTTPError: No answer came.
    """
    parts = urllib.parse.urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) if not urllib.request.proxy_bypass(parts.hostname or "") else None
    options: dict[str, Any] = {"ssl_context": _trusted()} if parts.scheme == "https" else {}
    manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
    pool = manager.connection_from_url(url)
    kind = _TimedTls if isinstance(pool, urllib3.HTTPSConnectionPool) else _Timed
    checked = functools.partial(kind, clock=clock, public_only=not (limits.allow_private or proxy))
    pool.ConnectionCls = checked  # type: ignore[assignment]  # urllib3 only calls it
    return manager.request(
        "GET",
        url,
        headers=headers,
        redirect=False,
        retries=False,
        timeout=limits.timeout,
        preload_content=False,
        decode_content=False,
    )


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Return a context with the system's certificates, read once."""
    return ssl.create_default_context()
