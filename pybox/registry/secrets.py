"""Who we are at a registry: docker's config.json and containers' auth.json, credential helpers, login and logout.

containers-auth.json(5); docker's credential helper protocol (github.com/docker/docker-credential-helpers). A password is never
put on a command line, into an error message, or into a file that others can read.
"""

from __future__ import annotations

import base64
import binascii
import json
import os

from pybox.errors import ImageError
from pybox.record import Record
from pybox.registry.address import DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

    Document = dict[str, Json]

_DOCKER = "https://index.docker.io/v1/"  # how docker.io has always been called in there
_TOKEN_USER = "<token>"  # a helper's word: the secret is an identity token


class Credentials(Record):
    """A user and a password, or an identity token."""

    user: str
    password: str
    token: str = ""

    def basic(self) -> str:
        """Return the value of an Authorization header; RFC 7617."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def find(registry: str, repository: str = "") -> Credentials | None:
    """Return what is known for a registry, the most specific entry of the first file that has one. Raises ImageError."""
    names = _names(registry, repository)
    for path in _files():
        document = _read(path)
        helpers = document.get("credHelpers")
        for name in names:
            if isinstance(helpers, dict) and isinstance(helper := helpers.get(name), str):
                return _ask(helper, name)
        if isinstance(helper := document.get("credsStore"), str) and helper:
            for name in names[-2:]:  # each question is a process; only what docker itself would ask for
                if found := _ask(helper, name):
                    return found
        entries = document.get("auths")
        known = {_plain(key): entry for key, entry in entries.items()} if isinstance(entries, dict) else {}
        for name in names:
            if isinstance(entry := known.get(_plain(name)), dict) and (found := _entry(path, name, entry)):
                return found
    return None


def login(registry: str, credentials: Credentials) -> str:
    """Keep credentials for a registry; returns where. Raises ImageError."""
    path = docker_file()
    document = _read(path)
    key = _DOCKER if registry == DEFAULT else registry
    if helper := _helper(document, key):
        secret = {"ServerURL": key, "Username": credentials.user, "Secret": credentials.password}
        _call(helper, "store", json.dumps(secret))
        return f"docker-credential-{helper}"
    encoded = base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()
    entries = document.get("auths")
    document["auths"] = {**(entries if isinstance(entries, dict) else {}), key: {"auth": encoded}}
    _write(path, document)
    return path


def logout(registry: str) -> bool:
    """Forget the credentials of a registry in every file we'd look into; returns whether there were any. Raises ImageError."""
    key = _DOCKER if registry == DEFAULT else registry
    gone = False
    for path in _files():
        document = _read(path)
        if (helper := _helper(document, key)) and _ask(helper, key):
            _call(helper, "erase", key)
            gone = True
        entries = document.get("auths")
        if isinstance(entries, dict):
            kept = {name: entry for name, entry in entries.items() if _plain(name) != _plain(key)}
            if len(kept) < len(entries):
                document["auths"] = kept
                _write(path, document)
                gone = True
    return gone


def docker_file() -> str:
    """Return where `login` writes: docker's file, which podman and skopeo read too."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.join(os.environ.get("HOME") or "/", ".docker")
    return os.environ.get("REGISTRY_AUTH_FILE") or f"{folder}/config.json"


def _files() -> list[str]:
    if given := os.environ.get("REGISTRY_AUTH_FILE"):
        return [given]
    runtime, home = os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("HOME") or "/"
    config = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    files = [f"{runtime}/containers/auth.json"] if runtime else []
    if os.geteuid() == 0:
        files.append("/run/containers/0/auth.json")
    return list(dict.fromkeys([*files, f"{config}/containers/auth.json", docker_file()]))


def _names(registry: str, repository: str) -> list[str]:
    """Return the keys under which an entry may stand, the most specific first."""
    names = []
    parts = repository.split("/") if repository else []
    for end in range(len(parts), 0, -1):
        names.append(f"{registry}/{'/'.join(parts[:end])}")
    return [*names, *((_DOCKER, DEFAULT) if registry == DEFAULT else (f"https://{registry}", registry))]


def _plain(key: str) -> str:
    """Return a key without what only some tools write: the scheme, the version of the protocol, the slash."""
    key = key.partition("://")[2] or key
    return "docker.io" if key.startswith("index.docker.io") else key.removesuffix("/").removesuffix("/v1").removesuffix("/v2")


def _entry(path: str, name: str, entry: Document) -> Credentials | None:
    token = entry.get("identitytoken")
    auth = entry.get("auth")
    if not isinstance(auth, str) or not auth:
        named, given = entry.get("username"), entry.get("password")
        if isinstance(named, str) and isinstance(given, str):
            return Credentials(named, given)
        return Credentials("", "", token) if isinstance(token, str) and token else None
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise ImageError(f"{path}: the entry of {name} is damaged", f"pybox login {name}")
    return Credentials(user, password.rstrip("\0"), token if isinstance(token, str) else "")


def _helper(document: Document, key: str) -> str:
    helpers = document.get("credHelpers")
    for helper in (helpers.get(key) if isinstance(helpers, dict) else None, document.get("credsStore")):
        if isinstance(helper, str) and helper:
            return helper
    return ""


def _ask(helper: str, name: str) -> Credentials | None:
    answer = _call(helper, "get", name)
    try:
        found = json.loads(answer) if answer else None
    except ValueError:
        raise ImageError(f"docker-credential-{helper}: its answer is not JSON") from None
    if not isinstance(found, dict) or not found.get("Secret"):
        return None
    user, secret = str(found.get("Username", "")), str(found["Secret"])
    return Credentials("", "", secret) if user == _TOKEN_USER else Credentials(user, secret)


def _call(helper: str, verb: str, feed: str) -> str:
    """Ask a credential helper; returns its answer, "" when it has none for this server. Raises ImageError."""
    import subprocess

    if not helper.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ImageError(f"credential helper {helper!a}: not a name of a program")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run((program, verb), input=feed, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise ImageError(f"{program} is not installed, and the configuration asks for it") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{program}: {error}") from None
    if done.returncode:
        reason = (done.stdout or done.stderr).strip()
        if "not found" in reason:  # the protocol's way to say that it knows nothing
            return ""
        raise ImageError(f"{program} {verb}: {reason[:200]!a}")
    return done.stdout


def _read(path: str) -> Document:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ImageError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ImageError(f"{path}: not a JSON object")
    return document


def _write(path: str, document: Document) -> None:
    part = f"{path}.part-{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(document, file, indent="\t")
        os.rename(part, path)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
