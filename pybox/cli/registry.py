"""`pybox pull`, `push`, `login`, `logout`: images over the network. None is on the way of a run whose image is present."""

from __future__ import annotations

import os

from pybox.cli.options import Option, Parsed, parse_anywhere
from pybox.dirs import Dirs
from pybox.errors import ImageError, ImageNotFound, PyboxError, SpecError
from pybox.registry.wire import Manner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.cli.progress import Shown

_CERT_DIR = Option(("--cert-dir",), "", "*.crt: authorities to trust; NAME.cert and NAME.key: who we are", "DIR")
_TLS = Option(("--tls-verify",), "", "--tls-verify=false: plain HTTP, any certificate")
_QUIET = Option(("-q", "--quiet"), "", "no progress")
PULL = (
    Option(("--platform",), "", "another than this machine's: linux/ARCHITECTURE[/VARIANT]", "PLATFORM"),
    _QUIET,
    _CERT_DIR,
    _TLS,
)
PUSH = (
    Option(("--format",), "", "of the manifest: oci (the default) or docker", "FORMAT"),
    Option(("--compress",), "", "of new layers: gzip (the default), zstd or none", "HOW"),
    _QUIET,
    _CERT_DIR,
    _TLS,
)
LOGIN = (
    Option(("-u", "--username"), "", "the user; asked for if absent", "NAME"),
    Option(("-p", "--password"), "", "the password, which others may see in `ps`; better:", "PASSWORD"),
    Option(("--password-stdin",), "", "read the password from standard input"),
    _CERT_DIR,
    _TLS,
)
LOGOUT = ()


def _manner(parsed: Parsed) -> Manner:
    return Manner(tls_verify=parsed.one("tls-verify") in (None, ""), cert_dir=parsed.one("cert-dir") or "")


def _watch(quiet: bool) -> Shown:
    from pybox.cli.progress import Bars, Lines, Silence

    return Silence() if quiet else Bars() if os.isatty(2) and os.environ.get("TERM") != "dumb" else Lines()


def pull(where: Dirs, words: list[str]) -> int:
    """Bring images from a registry; prints their ids."""
    from pybox.registry import pull as pulling
    from pybox.registry.api import machine

    parsed = parse_anywhere(PULL, words)
    if not parsed.rest:
        raise SpecError("pull", "", "which image?", "pybox pull NAME[:TAG|@DIGEST]...")
    for name in parsed.rest:
        with _watch(parsed.has("quiet")) as watch:
            pulled = pulling.pull(where, name, _manner(parsed), watch, platform=machine(parsed.one("platform") or ""))
            watch.end(f"{name}: {'downloaded' if pulled.fresh else 'up to date'}")
        print(pulled.id)
    return 0


def push(where: Dirs, words: list[str]) -> int:
    """Bring an image to a registry; prints the digest of its manifest."""
    from pybox.registry import push as pushing

    parsed = parse_anywhere(PUSH, words)
    if len(parsed.rest) not in (1, 2):
        raise SpecError("push", " ".join(parsed.rest), "must be IMAGE [NAME[:TAG]]")
    shape = pushing.Shape(parsed.one("format") or "oci", parsed.one("compress") or "")
    with _watch(parsed.has("quiet")) as watch:
        digest = pushing.push(where, parsed.rest[0], "".join(parsed.rest[1:]), _manner(parsed), watch, shape)
        watch.end(f"{parsed.rest[-1]}: pushed")
    print(digest)
    return 0


def login(where: Dirs, words: list[str]) -> int:
    """Check a user and a password at a registry, and keep them."""
    from pybox.registry import secrets
    from pybox.registry.address import DEFAULT, Address, endpoints
    from pybox.registry.client import Client
    from pybox.registry.wire import Wire

    parsed = parse_anywhere(LOGIN, words)
    registry = _registry(parsed.rest)
    user, password = parsed.one("username") or "", parsed.one("password") or ""
    if not user:
        if not os.isatty(0):
            raise SpecError("username", "", "needed", "pybox login -u NAME --password-stdin REGISTRY")
        user = input("Username: ")
    if parsed.has("password-stdin"):
        with open(0, encoding="utf-8", errors="surrogateescape", newline="", closefd=False) as source:
            password = source.read(1 << 16).removesuffix("\n").removesuffix("\r")
    elif not password:
        if not os.isatty(0):
            raise SpecError("password", "", "needed", "--password-stdin reads it from standard input")
        from getpass import getpass

        password = getpass("Password: ")
    strange = any(char == "\0" or "\ud800" <= char <= "\udfff" for char in user + password)
    if not (user and password) or ":" in user or strange:
        raise SpecError("login", "", "no user or no password, or one with characters that can't be sent")
    credentials = secrets.Credentials(user, password)
    manner = _manner(parsed)
    wire = Wire(manner)
    try:
        endpoint = endpoints(Address(registry, "", ""), not manner.tls_verify, writing=True)[0]
        Client(wire, endpoint.replace(repository=""), credentials).check()
    except ImageError as error:
        wrong = "access denied" in error.message
        raise ImageError(
            f"{registry}: user or password is wrong" if wrong else error.message, None if wrong else error.hint
        ) from None
    finally:
        wire.stop()
    kept = secrets.login(registry, credentials)
    os.write(2, f"pybox: logged in to {registry or DEFAULT} as {user}; kept in {kept}\n".encode())
    return 0


def logout(where: Dirs, words: list[str]) -> int:
    """Forget a user and a password."""
    from pybox.registry import secrets

    registry = _registry(parse_anywhere(LOGOUT, words).rest)
    if not secrets.logout(registry):
        raise PyboxError(f"not logged in to {registry}")
    return 0


def _registry(words: list[str]) -> str:
    from pybox.registry.address import DEFAULT

    if len(words) > 1:
        raise SpecError("registry", " ".join(words), "one, please")
    name = (words[0] if words else DEFAULT).removeprefix("https://").removeprefix("http://").rstrip("/")
    if not name or "/" in name or not name.isprintable() or " " in name:
        raise SpecError("registry", words[0], "not HOST[:PORT]")
    return DEFAULT if name in ("index.docker.io", "registry-1.docker.io") else name


def bring(where: Dirs, name: str, missing: ImageNotFound | None = None) -> None:
    """Have the image of a run here and up to date; ``missing`` says that it is absent.

    Raises ImageNotFound when it can't be had, with what is missing first: most such names are misspelt.
    """
    from pybox.image import reference
    from pybox.registry import pull as pulling

    if name == reference.HOST:
        return
    try:
        reference.parse(name)
    except ImageError:
        if missing is None:
            raise
        raise missing from None  # an id: nothing that a registry could be asked for
    try:
        with _watch(False) as watch:
            pulled = pulling.pull(where, name, watch=watch)
            if pulled.fresh:
                watch.end(f"{name}: downloaded")
    except ImageError as error:
        if missing is None:
            raise
        near = missing.hint if (missing.hint or "").startswith("did you mean") else error.hint or missing.hint
        raise ImageNotFound(f"{missing.message}, and it can't be pulled: {error.message}", near) from None
