"""What a registry can be asked: manifests, blobs, uploads; and how we show who we are when it wants to know.

OCI distribution-spec; the token protocol is docker's (distribution/docs/spec/auth/token.md). A blob is a Source that goes on
where a broken connection left it; whether the bytes are right is for its reader's digest to say.
"""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from threading import Lock
from urllib.parse import urlencode, urljoin, urlsplit

from pybox.errors import ImageError
from pybox.image import config, manifest
from pybox.record import Record
from pybox.registry import secrets
from pybox.registry.address import loopback
from pybox.registry.wire import Answer, Unreachable, Wire, joined, number, origin, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pybox.registry.address import Endpoint
    from pybox.registry.secrets import Credentials
    from pybox.registry.wire import Body

_ACCEPT = ", ".join((*manifest.INDEXES, *manifest.MANIFESTS))
_MOST = config.JSON_MAX


class Refused(ImageError):
    """The registry answered, and the answer is no. ``status`` is the HTTP one."""

    code = "E-REGISTRY-REFUSED"

    status = 0


class Document(Record):
    """A manifest or an index as a registry has it."""

    kind: str  # media type
    digest: str
    data: bytes


class Client:
    """One repository at one server. Threads may share it."""

    def __init__(self, wire: Wire, endpoint: Endpoint, credentials: Credentials | None = None) -> None:
        self.wire, self.endpoint = wire, endpoint
        self.insecure = endpoint.insecure or not wire.manner.tls_verify
        self._given = credentials  # else looked up when the registry asks
        self._authorization = ""
        self._lock = Lock()
        self._base = "" if self.insecure or endpoint.loopback else f"https://{endpoint.host}"

    # What can be asked

    def check(self) -> None:
        """Ask whether it is a registry that lets us in. Raises ImageError."""
        self.ask("GET", "/v2/", actions="").body(_MOST)

    def head(self, target: str) -> str:
        """Return the digest of a tag's manifest; "" when the registry does not tell without sending it."""
        answer = self.ask("HEAD", self._path("manifests", target), {"Accept": _ACCEPT}, also=(405,))
        answer.body(_MOST)
        return answer.header("Docker-Content-Digest") if answer.status == 200 else ""

    def manifest(self, target: str) -> Document:
        """Return the manifest of a tag or digest, checked against its digest. Raises ImageError."""
        answer = self.ask("GET", self._path("manifests", target), {"Accept": _ACCEPT})
        data = answer.body(_MOST)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        promised = target if target.startswith("sha256:") else answer.header("Docker-Content-Digest")
        if promised.startswith("sha256:") and promised != digest:
            raise ImageError(f"{self}: its manifest is {digest}, not {promised} as asked for", "damaged or forged on the way")
        kind = answer.header("Content-Type").partition(";")[0].strip()
        if kind not in (*manifest.INDEXES, *manifest.MANIFESTS):
            told = config.obj(config.load(data, "the manifest"), "the manifest").get("mediaType")
            kind = told if isinstance(told, str) and kind in ("", "application/json", "text/plain") else kind
        return Document(kind, digest, data)

    def blob(self, digest: str, start: int = 0) -> Answer:
        """Return a blob's bytes from ``start`` on, as far as the registry can do that: 206 says so."""
        return self.ask("GET", self._path("blobs", digest), {"Range": f"bytes={start}-"} if start else {}, also=(206,))

    def small_blob(self, digest: str) -> bytes:
        """Return a blob of JSON."""
        return self.blob(digest).body(_MOST)

    def has_blob(self, digest: str) -> bool:
        """Return whether the repository has a blob."""
        answer = self.ask("HEAD", self._path("blobs", digest), also=(404,), actions="pull,push")
        answer.body(_MOST)
        return answer.status == 200

    def upload(self, digest: str, body: Body, moved: Callable[[], object] = lambda: None) -> None:
        """Upload a blob in one piece. Raises ImageError."""
        answer = self.ask("POST", self._path("blobs", "uploads/"), also=(202,), actions="pull,push")
        answer.body(_MOST)
        place = joined(answer.url, answer.header("Location"))
        if not answer.header("Location") or not place or (place.startswith("http:") and answer.url.startswith("https:")):
            raise ImageError(f"{self}: it says not where to upload to", "it is no registry, or misconfigured")
        place += ("&" if urlsplit(place).query else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream"}
        self.ask("PUT", place, headers, body, also=(201, 202, 204), actions="pull,push", progress=moved).body(_MOST)

    def put_manifest(self, target: str, kind: str, data: bytes) -> None:
        """Upload a manifest under a tag or its digest. Raises ImageError."""
        path = self._path("manifests", target)
        self.ask("PUT", path, {"Content-Type": kind}, data, also=(201, 202), actions="pull,push").body(_MOST)

    def __str__(self) -> str:
        return f"{self.endpoint.host}/{self.endpoint.repository}".rstrip("/")

    def _path(self, what: str, which: str) -> str:
        return f"/v2/{self.endpoint.repository}/{what}/{which}"

    # How it is asked

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        *,
        also: tuple[int, ...] = (),
        actions: str = "pull",
        progress: Callable[[], object] = lambda: None,
    ) -> Answer:
        """Send a request, with who we are once the registry wants to know. Raises Refused unless the status is 200 or in ``also``."""
        base = self._base or self._find_base()
        url = urljoin(base, path)
        for last in (False, True):
            sent = dict(headers or {})
            used = self._authorization
            if used and origin(url) == origin(base):
                sent["Authorization"] = used
            answer = self.wire.request(method, url, sent, body, insecure=self.insecure, progress=progress)
            # a challenge of somebody else, to whom a redirect or an upload has led, is no question for our password
            if answer.status != 401 or last or origin(answer.url) != origin(base):
                break
            challenges = answer.challenges()
            answer.body(_MOST)
            self._authorize(challenges, actions, used)
        if answer.status == 200 or answer.status in also:
            return answer
        raise self._refusal(method, path, answer)

    def _find_base(self) -> str:
        """Find out whether a registry that may speak plain HTTP does."""
        host = self.endpoint.host
        first: ImageError | None = None
        schemes = ("http", "https") if self.endpoint.loopback else ("https", "http")
        for scheme in schemes:
            try:
                answer = self.wire.request("GET", f"{scheme}://{host}/v2/", {}, insecure=self.insecure, tries=1)
                answer.body(_MOST)
            except Unreachable as error:
                if first is None or (scheme == "https" and "Connection refused" not in error.message):
                    first = error
                continue
            if answer.status != 400:  # Go's and nginx' answer to plain HTTP where TLS is spoken
                self._base = f"{scheme}://{host}"
                return self._base
        raise first or ImageError(f"{host}: it is no registry")

    def _refusal(self, method: str, path: str, answer: Answer) -> Refused:
        code, said = _complaint(answer.body(_MOST) if method != "HEAD" else b"")
        status, what = answer.status, path.rpartition("/")[2]
        hint = None
        if status in (401, 403):
            known = self._given is not None or bool(self._authorization)
            text = "access denied" if known else "it wants to know who we are"
            text += "; it may not exist" if "/manifests/" in path else ""
            hint = f"pybox login {self.endpoint.registry or self.endpoint.host}"
        elif status == 404 and "/manifests/" in path:
            missing = "repository" if code == "NAME_UNKNOWN" else "digest" if what.startswith("sha256:") else "tag"
            text = f"no such {missing}" + (f": {what}" if missing != "repository" else "")
        elif status == 404:
            text = f"no such blob: {what}" if "/blobs/" in path else "it is no registry"
        elif status == 429:
            text, hint = "too many requests", "try again later; many registries allow more to who is logged in"
        else:
            text = f"HTTP status {status}"
        if answer.status in (401, 403, 404) and code in ("", "UNAUTHORIZED", "MANIFEST_UNKNOWN", "NAME_UNKNOWN"):
            said = ""
        error = Refused(f"{self}: {text}" + (f" ({said})" if said else ""), hint)
        error.status = status
        return error

    # Who we are

    def _authorize(self, challenges: list[str], actions: str, used: str) -> None:
        with self._lock:
            if self._authorization != used:  # another thread has just done it
                return
            who = self._given or secrets.find(self.endpoint.registry or self.endpoint.host, self.endpoint.repository)
            for scheme, values in map(_challenge, challenges):
                if scheme == "bearer":
                    self._authorization = f"Bearer {self._token(values, actions, who)}"
                    return
                if scheme == "basic" and who is not None:
                    self._authorization = who.basic()
                    return

    def _token(self, values: dict[str, str], actions: str, who: Credentials | None) -> str:
        realm = values.get("realm", "")
        if not joined(realm, ""):
            raise ImageError(f"{self}: its token server is {realm[:100]!a}, which is no web address")
        if realm.startswith("http:") and not self.insecure and not loopback(origin(realm)[1]):
            raise ImageError(
                f"{self}: its token server {origin(realm)[1]} speaks no TLS", "a password would be readable on the way"
            )
        asked = {"service": values["service"]} if "service" in values else {}
        if actions:
            asked["scope"] = f"repository:{self.endpoint.repository}:{actions}"
        if who is not None and who.token:
            asked |= {"grant_type": "refresh_token", "refresh_token": who.token, "client_id": "pybox"}
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self.wire.request("POST", realm, form, urlencode(asked).encode(), insecure=self.insecure)
        else:
            headers = {"Authorization": who.basic()} if who is not None else {}
            url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(asked) if asked else realm
            answer = self.wire.request("GET", url, headers, insecure=self.insecure)
        data = answer.body(_MOST)
        host = origin(realm)[1]
        if answer.status != 200:
            said = _complaint(data)[1]
            reasons = {401: "user or password is wrong", 403: "access denied", 429: "too many requests"}
            text = reasons.get(answer.status, f"HTTP status {answer.status}")
            error = Refused(
                f"{self}: its token server {host}: {text}" + (f" ({said})" if said else ""),
                f"pybox login {self.endpoint.registry}",
            )
            error.status = answer.status
            raise error
        found = config.obj(config.load(data, f"the answer of {host}"), f"the answer of {host}")
        for name in ("token", "access_token"):
            if isinstance(token := found.get(name), str) and token.isascii() and token.isprintable() and token:
                return token
        raise ImageError(f"{self}: its token server {host} gave no token")


class Download:
    """A blob as a source that is read once, over as many connections as it takes. Raises EOFError when it has another size."""

    def __init__(self, client: Client, digest: str, size: int, moved: Callable[[int], object]) -> None:
        self._client, self._digest, self._size, self._moved = client, digest, size, moved
        self._answer: Answer | None = None
        self._at = self._failed_at = 0
        self._tries = 0

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes. Raises ImageError when the rest can't be had."""
        if self._client.wire.stopped.is_set():
            raise Unreachable("stopped")
        while True:
            try:
                if self._answer is None:
                    self._answer = self._open()
                data = self._answer.read(size)
                if not data and self._at < self._size:
                    raise ConnectionError("the connection broke off")
            except (OSError, HTTPException) as error:
                self._again(error)
                continue
            self._at += len(data)
            if self._at > self._size:
                raise EOFError(f"it has more than the {self._size} bytes that its manifest says")
            self._moved(len(data))
            return data

    def _open(self) -> Answer:
        answer = self._client.blob(self._digest, self._at)
        skip = self._at
        if answer.status == 206:
            begin = number(answer.header("Content-Range").removeprefix("bytes ").partition("-")[0])
            skip = 0 if begin is None else self._at - begin
            if skip < 0:
                raise ConnectionError("it sends another part than asked for")
        elif (told := number(answer.header("Content-Length"))) not in (None, self._size):
            answer.close()
            raise EOFError(f"its blob has {told} bytes, not {self._size} as its manifest says")
        while skip:  # a server that can't send a part sends the whole
            data = answer.read(min(skip, 1 << 18))
            if not data:
                raise ConnectionError("the connection broke off")
            skip -= len(data)
        return answer

    def _again(self, error: Exception) -> None:
        self.close()
        pauses = self._client.wire.manner.pauses
        if self._at > self._failed_at:  # it went on in between
            self._tries, self._failed_at = 0, self._at
        if self._tries == len(pauses) or self._client.wire.stopped.is_set():
            raise Unreachable(f"{self._client}: {reason(error)} after {self._at} of {self._size} bytes") from None
        self._client.wire.pause(pauses[self._tries])
        self._tries += 1

    def close(self) -> None:
        """Let go of the connection."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def _challenge(header: str) -> tuple[str, dict[str, str]]:
    """Return (scheme, parameters) of a WWW-Authenticate header; RFC 9110 section 11.6.1."""
    import re

    scheme, _, rest = header.strip().partition(" ")
    found = re.findall(r'([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))', rest)
    return scheme.lower(), {name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain for name, quoted, plain in found}


def _complaint(data: bytes) -> tuple[str, str]:
    """Return (code, message) of an error document, as they may be printed; distribution-spec "Error Codes"."""
    try:
        from pybox.image.tape import shown  # only who fails pays for tarfile

        document = config.obj(config.load(data, ""), "")
        first = (*config.objects(document, "errors"), document)[0]  # token servers say it without a list
        code, message = (first.get(field) for field in ("code", "message" if "message" in first else "details"))
    except ImageError:
        return "", ""
    return shown(str(code or "")), shown(str(message or ""))
