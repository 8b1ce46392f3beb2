"""References: how users name images, in docker's words.

    busybox                          is busybox:latest
    docker.io/library/busybox:1.36   is busybox:1.36
    quay.io:443/team/tool:v2         a registry, a repository, a tag
    tool@sha256:<64 hex>             by digest

``canonical`` and ``filename`` are on the way of `pybox run`: a few string operations, no grammar. ``parse`` holds the grammar
(distribution/reference of the Docker project) and guards every name that is *written*.
"""

from __future__ import annotations

from pybox.errors import ImageError
from pybox.record import Record

HOST = "host"


class Reference(Record):
    """A parsed name: repository (with its registry, if any), and a tag or a digest ("sha256:<hex>") or both."""

    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def canonical(name: str) -> str:
    """Return the one spelling under which a name is stored: default registry off, default tag on. Idempotent."""
    while name.startswith(("docker.io/", "index.docker.io/")):
        name = name[name.index("/") + 1 :]
    if name.startswith("library/") and name.count("/") == 1:
        name = name[8:]
    if "@" not in name and ":" not in name[name.rfind("/") + 1 :]:
        name += ":latest"
    return name


def filename(name: str) -> str | None:
    """Return the file name that stands for a reference in the store, or None when no valid reference looks like this."""
    if "%" in name or "\0" in name or len(name) > 255:
        return None
    return canonical(name).replace("/", "%")


def unfilename(entry: str) -> str:
    """Return the reference that ``filename`` turned into this file name."""
    return entry.replace("%", "/")


def domain(repository: str) -> tuple[str, str]:
    """Return the registry of a repository ("" for the default one) and its path there; docker's rule what a host name is."""
    first, slash, path = repository.partition("/")
    return (first, path) if slash and ("." in first or ":" in first or first == "localhost") else ("", repository)


def parse(name: str) -> Reference:
    """Parse a reference that is to be stored. Raises ImageError with the reason when it is not a valid one."""
    import re

    def refuse(reason: str, hint: str | None = None) -> ImageError:
        return ImageError(f"image name {name[:300]!a}: {reason}", hint)

    if len(name) > 255:
        raise refuse("longer than 255 characters")
    spelled = canonical(name)
    rest, at, digest = spelled.partition("@")
    if at and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise refuse("a digest is sha256: and 64 hex digits")
    repository, tag = rest, ""
    colon = rest.rfind(":")
    if colon > rest.rfind("/"):
        repository, tag = rest[:colon], rest[colon + 1 :]
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", tag):
            raise refuse("a tag is 1 to 128 letters, digits, _ . - and starts with none of . -")
    if repository == HOST:
        raise refuse("the name host is the machine's own root", "choose another name")
    if repository == "sha256":
        raise refuse("it could not be told from an image id")
    if re.fullmatch(r"[0-9a-f]{64}", repository):
        raise refuse("64 hex digits are an image id, not a name")
    first, path = domain(repository)
    if first:
        label = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
        if not re.fullmatch(rf"{label}(\.{label})*(:[0-9]+)?", first):
            raise refuse("the registry is not a host name with an optional port")
    part = r"[a-z0-9]+((\.|__|_|-+)[a-z0-9]+)*"
    if not re.fullmatch(rf"{part}(/{part})*", path):
        raise refuse("use lower-case letters and digits, with . _ - or / between them", "e.g. tools/busybox:1.36")
    if canonical(spelled) != spelled or len(spelled) > 255:
        raise refuse("not a name that can be stored")
    return Reference(repository, tag, digest)
