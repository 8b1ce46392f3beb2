"""Which servers a name means: docker's default registry, and what containers-registries.conf(5) says of mirrors and locks.

    busybox                     registry-1.docker.io, library/busybox, latest
    localhost:5000/tool@sha256  localhost:5000, tool, by digest

A registry on this very machine may speak plain HTTP, as in docker; any other only where it is declared insecure.
"""

from __future__ import annotations

import os

from pybox.errors import ImageError
from pybox.image import reference
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Table = dict[str, object]

DEFAULT = "docker.io"
_WIRE = "registry-1.docker.io"  # where docker.io really answers


class Address(Record):
    """A name as the network sees it."""

    registry: str  # host[:port], as users name it: docker.io
    repository: str  # library/busybox
    tag: str  # "" when there is a digest
    digest: str = ""

    @property
    def target(self) -> str:
        """What is asked for within the repository."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")


class Endpoint(Record):
    """A server that may have it: the registry itself or a mirror of it."""

    host: str  # host[:port]
    repository: str
    insecure: bool = False  # plain HTTP and unknown certificates are allowed
    registry: str = ""  # under which its credentials are kept

    @property
    def loopback(self) -> bool:
        """Whether it is this machine: nobody listens on the way."""
        return loopback(self.host)


def loopback(host: str) -> bool:
    """Return whether a host[:port] is this machine."""
    name = host if host.count(":") > 1 and not host.startswith("[") else host.rsplit(":", 1)[0]
    return name in ("localhost", "[::1]") or (name.startswith("127.") and not name.strip("0123456789."))


def parse(name: str) -> Address:
    """Return the address of an image name. Raises ImageError for a name that is none."""
    parsed = reference.parse(name)
    registry, path = reference.domain(parsed.repository)
    if not registry:
        registry, path = DEFAULT, path if "/" in path else f"library/{path}"
    return Address(registry, path, "" if parsed.digest else parsed.tag, parsed.digest)


def endpoints(address: Address, insecure: bool = False, *, writing: bool = False) -> tuple[Endpoint, ...]:
    """Return the servers to ask, in order: mirrors first, except for writing. Raises ImageError for a blocked registry."""
    name = f"{address.registry}/{address.repository}"
    entry = _entry(name)
    if entry is None:
        return (_endpoint(name, insecure, address.registry),)
    prefix, table = entry
    if table.get("blocked") is True:
        raise ImageError(f"{name}: registries.conf blocks {prefix}")
    # a wildcard stands for whole host names, which a location can't replace
    rest = name if prefix.startswith("*.") else str(table.get("location") or prefix) + name[len(prefix) :]
    own = _endpoint(rest, insecure or table.get("insecure") is True, address.registry)
    return (own,) if writing else (*_mirrors(table, prefix, name, address), own)


def _mirrors(table: Table, prefix: str, name: str, address: Address) -> Iterator[Endpoint]:
    mirrors = table.get("mirror")
    for mirror in mirrors if isinstance(mirrors, list) else []:
        kind = mirror.get("pull-from-mirror", "all")
        if (kind == "digest-only" and not address.digest) or (kind == "tag-only" and address.digest):
            continue
        if table.get("mirror-by-digest-only") is True and not address.digest:
            continue
        location = str(mirror.get("location") or "")
        if location and not prefix.startswith("*."):
            yield _endpoint(location + name[len(prefix) :], mirror.get("insecure") is True, "")


def _endpoint(name: str, insecure: bool, registry: str) -> Endpoint:
    host, _, repository = name.partition("/")
    return Endpoint(_WIRE if host == DEFAULT else host, repository, insecure, registry or host)


def _entry(name: str) -> tuple[str, Table] | None:
    """Return the most specific [[registry]] for a name, with its prefix."""
    best: tuple[str, Table] | None = None
    for path in _files():
        for table in _registries(path):
            prefix = str(table.get("prefix") or table.get("location") or "")
            if prefix and _matches(name, prefix) and (best is None or len(prefix) >= len(best[0])):
                best = prefix, table
    return best


def _matches(name: str, prefix: str) -> bool:
    if prefix.startswith("*."):
        return name.partition("/")[0].partition(":")[0].endswith(prefix[1:])
    return name == prefix or name.startswith((f"{prefix}/", f"{prefix}:"))


def _files() -> list[str]:
    """Return the files that apply, the ones that win last: containers-registries.conf(5)."""
    given = os.environ.get("CONTAINERS_REGISTRIES_CONF")
    if given:
        return [given]
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.environ.get("HOME") or "/", ".config")
    own = f"{home}/containers/registries.conf"
    main = own if os.path.exists(own) else "/etc/containers/registries.conf"
    files = [main] if os.path.exists(main) else []
    for folder in ("/etc/containers/registries.conf.d", f"{home}/containers/registries.conf.d"):
        if os.path.isdir(folder):
            files += [f"{folder}/{file}" for file in sorted(os.listdir(folder)) if file.endswith(".conf")]
    return files


def _registries(path: str) -> list[Table]:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    if b"registry" not in text:  # most files of a distribution are comments and short names: not worth 14 ms
        return []
    import tomllib

    try:
        found = tomllib.loads(text.decode()).get("registry", [])
    except ValueError as error:
        raise ImageError(f"{path}: {error}") from None
    return [table for table in found if isinstance(table, dict)] if isinstance(found, list) else []
