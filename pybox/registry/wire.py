"""HTTP as registries need it: connections that are kept, proxies, TLS, redirects, retries with a growing pause.

On http.client of the standard library: importing urllib3 alone takes 60 ms, more than all the rest of an up-to-date pull, and its
retries know nothing of resuming a download. Promises: what identifies us is sent to the host it is for and to no other, also
through redirects; a request that can be repeated is, after what may pass (a lost connection, 408, 429, 5xx).
RFC 9110 (HTTP semantics), RFC 9112.
"""

from __future__ import annotations

import os
import socket
import ssl
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Event, Lock
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from pybox.errors import ImageError
from pybox.record import Record
from pybox.registry.address import loopback
from pybox.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    class File(Protocol):
        """What a body is read from."""

        def read(self, size: int = ..., /) -> bytes: ...

        def fileno(self) -> int: ...

        def close(self) -> None: ...

    Body = bytes | Callable[[], File]  # opened again for each try

CHUNK = 1 << 18
REDIRECTS = frozenset((301, 302, 303, 307, 308))
PASSING = frozenset((408, 429, 500, 502, 503, 504))  # what may be otherwise in a moment
PATIENCE = 60  # seconds: a server that asks for a longer pause is not waited for


class Manner(Record):
    """How to talk to registries."""

    tls_verify: bool = True
    cert_dir: str = ""  # *.crt: authorities, NAME.cert and NAME.key: who we are; else the system's places
    pauses: tuple[float, ...] = (0.3, 1, 3, 9)  # seconds before each further try
    timeout: float = 60  # seconds without a byte
    connect: float = 10  # seconds for a connection to be taken


class _Deaf(TimeoutError):
    """Nobody takes our connection: a firewall most often, which does not pass while we wait."""


class Unreachable(ImageError):
    """A server can't be talked to."""

    code = "E-REGISTRY"
    passes = True


class Answer:
    """A response: its status, its headers, and its body as a source. ``close`` it; one read to its end is closed already."""

    def __init__(self, wire: Wire, key: tuple[str, str], connection: HTTPConnection, response: HTTPResponse, url: str) -> None:
        self._wire, self._key, self._connection, self._response = wire, key, connection, response
        self.status, self.url = response.status, url

    def header(self, name: str) -> str:
        """Return a header, "" when there is none."""
        return self._response.headers.get(name) or ""

    def challenges(self) -> list[str]:
        """Return all WWW-Authenticate headers."""
        return self._response.headers.get_all("WWW-Authenticate") or []

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes of the body. Raises OSError, HTTPException."""
        return self._response.read(size)

    def body(self, most: int) -> bytes:
        """Return the whole body, and close. Raises ImageError when it has more than ``most`` bytes or breaks off."""
        try:
            data = b""
            while len(data) <= most and (more := self._response.read(min(CHUNK, most + 1 - len(data)))):
                data += more
            if self._response.length and len(data) <= most:
                raise Unreachable(f"{self._key[1]}: the answer broke off after {len(data)} bytes")
        except (OSError, HTTPException) as error:
            raise Unreachable(f"{self._key[1]}: {reason(error)}") from None
        finally:
            self.close()
        if len(data) > most:
            raise ImageError(f"{self._key[1]}: an answer of more than {most} bytes")
        return data

    def close(self) -> None:
        """Keep the connection when the body is at its end, drop it otherwise."""
        done = self._response.isclosed()
        self._response.close()
        self._wire.give_back(self._key, self._connection, usable=done and not self._response.will_close)


class Wire:
    """The connections of one process, for all its threads."""

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.stopped = Event()
        self._lock = Lock()
        self._idle: dict[tuple[str, str], list[HTTPConnection]] = {}
        self._busy: set[HTTPConnection] = set()
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body = b"",
        *,
        insecure: bool = False,
        tries: int | None = None,
        progress: Callable[[], object] = lambda: None,
    ) -> Answer:
        """Send a request until it is answered by something lasting, and follow where a GET is sent to.

        ``insecure`` takes any certificate. ``progress`` is told of each new try. Raises Unreachable.
        """
        pauses = self.manner.pauses if tries is None else self.manner.pauses[: tries - 1]
        for pause in (*pauses, None):
            wait: float | None = pause
            try:
                answer = self._follow(method, url, headers, body, insecure)
                if answer.status not in PASSING or pause is None:
                    return answer
                wait = max(pause, _retry_after(answer.header("Retry-After")))
                if wait > PATIENCE:
                    return answer
                answer.close()
            except Unreachable as error:
                if pause is None or isinstance(
                    error.__cause__, (ssl.SSLCertVerificationError, socket.gaierror, UnicodeError, _Deaf)
                ):
                    raise
            progress()
            self.pause(wait or 0)
        raise AssertionError("the last try returns or raises")

    def pause(self, seconds: float) -> None:
        """Wait, unless everything is to end. Raises Unreachable then."""
        if self.stopped.wait(seconds):
            raise Unreachable("stopped")

    def _follow(self, method: str, url: str, headers: Mapping[str, str], body: Body, insecure: bool) -> Answer:
        first = origin(url)
        for _ in range(6):
            # The answer to a redirect goes to whoever the registry names, which is no reason to tell them who we are.
            sent = headers if origin(url) == first else {k: v for k, v in headers.items() if k != "Authorization"}
            answer = self._once(method, url, sent, body, insecure and origin(url) == first)
            if answer.status not in REDIRECTS or method not in ("GET", "HEAD"):
                return answer
            location = answer.header("Location")
            target = joined(url, location)
            answer.close()
            if not target:
                raise Unreachable(f"{first[1]}: sends us to {location[:100]!a}, which is no web address")
            if url.startswith("https:") and not target.startswith("https:") and not insecure:
                raise Unreachable(f"{first[1]}: sends us from https to http", "nothing protects the data there")
            url = target
        raise Unreachable(f"{first[1]}: sends us on and on")

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: Body, insecure: bool) -> Answer:
        parts = urlsplit(url)
        key = (f"{parts.scheme}{'-' if insecure else ''}", parts.netloc.rpartition("@")[2])
        while True:
            connection, kept = self._connection(key, parts, insecure)
            data = body if isinstance(body, bytes) else body()
            try:
                proxied = parts.scheme == "http" and proxy(parts)
                target = url if proxied else parts.path + (f"?{parts.query}" if parts.query else "")
                length = str(len(data)) if isinstance(data, bytes) else str(os.fstat(data.fileno()).st_size)
                more = {"Content-Length": length} if data or method in ("POST", "PUT") else {}
                if proxied:
                    more |= _proxy_headers(proxied)
                if connection.sock is None:
                    _join(connection, self.manner)
                connection.request(method, target, data or None, {"User-Agent": f"pybox/{VERSION}", **headers, **more})
                return Answer(self, key, connection, connection.getresponse(), url)
            except (OSError, HTTPException, UnicodeError) as error:  # the last: a name that IDNA can't spell
                self.give_back(key, connection, usable=False)
                # A server may end a connection that was kept at the very moment we use it: that's no failure of this request.
                if not kept or isinstance(error, TimeoutError):
                    raise Unreachable(f"{key[1]}: {reason(error)}", _hint(error)) from error
            finally:
                if not isinstance(data, bytes):
                    data.close()

    def _connection(self, key: tuple[str, str], parts: SplitResult, insecure: bool) -> tuple[HTTPConnection, bool]:
        with self._lock:
            if self.stopped.is_set():
                raise Unreachable("stopped")
            if self._idle.get(key):
                connection = self._idle[key].pop()
                self._busy.add(connection)
                return connection, True
        try:
            connection = self._connect(parts, insecure)
        except ValueError as error:
            raise Unreachable(f"{key[1]}: {error}") from None
        with self._lock:
            self._busy.add(connection)
        return connection, False

    def _connect(self, parts: SplitResult, insecure: bool) -> HTTPConnection:
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        through = proxy(parts)
        timeout = self.manner.timeout
        if parts.scheme == "http":
            if through:
                host, port = through.hostname or "", through.port or 80
            return HTTPConnection(host, port, timeout=timeout, blocksize=CHUNK)
        context = self._context(parts.netloc, insecure)
        if not through:
            return HTTPSConnection(host, port, timeout=timeout, blocksize=CHUNK, context=context)
        connection = HTTPSConnection(
            through.hostname or "", through.port or 80, timeout=timeout, blocksize=CHUNK, context=context
        )
        connection.set_tunnel(host, port, _proxy_headers(through))
        return connection

    def _context(self, host: str, insecure: bool) -> ssl.SSLContext:
        with self._lock:
            key = host, insecure
            if key not in self._contexts:
                self._contexts[key] = _tls(host, self.manner, insecure)
            return self._contexts[key]

    def give_back(self, key: tuple[str, str], connection: HTTPConnection, *, usable: bool) -> None:
        """Keep a connection for the next request, or close it."""
        with self._lock:
            if connection not in self._busy:
                return
            self._busy.discard(connection)
            if usable and not self.stopped.is_set():
                self._idle.setdefault(key, []).append(connection)
                return
        connection.close()

    def stop(self) -> None:
        """End everything: threads that wait for a server are woken, and no further request is sent."""
        with self._lock:
            self.stopped.set()
            for connection in self._busy:
                try:
                    if connection.sock is not None:
                        connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()


def origin(url: str) -> tuple[str, str]:
    """Return (scheme, host[:port]) of a URL: to whom a secret belongs."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def joined(url: str, target: str) -> str:
    """Return where a URL of a stranger leads to, seen from another; "" for what is no web address."""
    try:
        found = urljoin(url, target)
        return found if urlsplit(found).scheme in ("https", "http") and found.isascii() else ""
    except ValueError:
        return ""


def number(text: str) -> int | None:
    """Return the number that a header is, None for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def proxy(parts: SplitResult) -> SplitResult | None:
    """Return the proxy for a URL, by the usual variables; this machine is never asked for through one."""
    name = f"{parts.scheme}_proxy"
    given = next(filter(None, (os.environ.get(each) for each in (name, name.upper(), "all_proxy", "ALL_PROXY"))), "")
    if not given or loopback(parts.netloc):
        return None
    from urllib.request import proxy_bypass  # only who has a proxy pays for it

    if proxy_bypass(parts.netloc):
        return None
    return urlsplit(given if "://" in given else f"http://{given}")


def _proxy_headers(through: SplitResult) -> dict[str, str]:
    if through.username is None:
        return {}
    from base64 import b64encode

    pair = f"{unquote(through.username)}:{unquote(through.password or '')}"
    return {"Proxy-Authorization": "Basic " + b64encode(pair.encode()).decode()}


def _join(connection: HTTPConnection, manner: Manner) -> None:
    connection.timeout = min(manner.connect, manner.timeout)
    try:
        connection.connect()
    except TimeoutError:
        raise _Deaf from None
    connection.sock.settimeout(manner.timeout)


def _tls(host: str, manner: Manner, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    home = os.environ.get("HOME") or "/"
    places = [f"{home}/.config/containers/certs.d", "/etc/containers/certs.d", "/etc/docker/certs.d"]
    folders = [manner.cert_dir] if manner.cert_dir else [f"{place}/{host}" for place in places]
    for folder in folders:
        if not manner.cert_dir and not os.path.isdir(folder):
            continue
        try:
            for name in sorted(os.listdir(folder)):
                if name.endswith(".crt"):
                    context.load_verify_locations(f"{folder}/{name}")
                elif name.endswith(".cert"):
                    context.load_cert_chain(f"{folder}/{name}", f"{folder}/{name.removesuffix('.cert')}.key")
        except (OSError, ssl.SSLError) as error:
            raise ImageError(f"certificates in {folder}: {getattr(error, 'strerror', None) or error}") from None
        break
    return context


def _retry_after(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def reason(error: Exception) -> str:
    """Return what went wrong with a connection, in one line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return "no such host, or no name server answers"
    if isinstance(error, UnicodeError):
        return "no host can have such a name"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, HTTPException):
        return f"it does not speak HTTP: {type(error).__name__} {str(error)[:100]!a}"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]


def _hint(error: Exception) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "--cert-dir DIR with its authority's NAME.crt, or --tls-verify=false if you trust the network"
    if isinstance(error, ssl.SSLError):
        return "a registry without TLS: --tls-verify=false, or insecure = true in registries.conf"
    return None
