"""`pybox volume create|ls|rm|inspect|prune`. None is on the way of `run`."""

from __future__ import annotations

import json
import os

from pybox import volumes
from pybox.cli.options import Option, parse_anywhere
from pybox.cli.table import form, table
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError
from pybox.times import rfc3339
from pybox.volumes import Volume

_FORMAT = Option(("--format",), "", "ls: table or json", "FORMAT")
_QUIET = Option(("-q", "--quiet"), "", "ls: names only")
_LABEL = Option(("-l", "--label"), "", "create: a note on it", "KEY[=VALUE]", True)
VOLUME = (_LABEL, _QUIET, _FORMAT)


def volume(where: Dirs, words: list[str]) -> int:
    """`pybox volume VERB`."""
    verbs = {"create": create, "ls": ls, "list": ls, "rm": rm, "remove": rm, "inspect": inspect, "prune": prune}
    if not words or words[0] not in verbs:
        given = f"no such command: volume {words[0]}" if words else "volume: which of its commands?"
        raise PyboxError(given, "pybox volume create|ls|rm|inspect|prune")
    return verbs[words[0]](where, words[1:])


def create(where: Dirs, words: list[str]) -> int:
    """Make an empty volume; prints its name."""
    parsed = parse_anywhere((_LABEL,), words)
    if len(parsed.rest) > 1:
        raise SpecError("volume create", " ".join(parsed.rest), "takes one name")
    name = parsed.rest[0] if parsed.rest else os.urandom(16).hex()
    print(volumes.create(where, name, parsed.all("label")).name)
    return 0


def ls(where: Dirs, words: list[str]) -> int:
    """List the volumes."""
    parsed = parse_anywhere((_QUIET, _FORMAT), words)
    if parsed.rest:
        raise SpecError("volume ls", " ".join(parsed.rest), "takes no names")
    found = volumes.volumes(where)
    if form(parsed, "table", "json") == "json":
        print(json.dumps([_shown(each) for each in found], indent=2))
    elif parsed.has("quiet"):
        for each in found:
            print(each.name)
    else:
        print(table([("NAME", "CONTAINERS", "CREATED"), *((v.name, str(len(v.users)), rfc3339(v.created)) for v in found)]))
    return 0


def rm(where: Dirs, words: list[str]) -> int:
    """Remove volumes and what is in them."""
    names = parse_anywhere((), words).rest
    if not names:
        raise SpecError("volume rm", "", "which volume?", "`pybox volume ls` lists them")
    for name in names:
        volumes.remove(where, name)
        print(name)
    return 0


def inspect(where: Dirs, words: list[str]) -> int:
    """Print all about volumes, as JSON."""
    names = parse_anywhere((), words).rest
    if not names:
        raise SpecError("volume inspect", "", "which volume?", "`pybox volume ls` lists them")
    print(json.dumps([_shown(volumes.find(where, name)) for name in names], indent=2))
    return 0


def prune(where: Dirs, words: list[str]) -> int:
    """Remove the volumes that no container shows."""
    if parse_anywhere((), words).rest:
        raise SpecError("volume prune", " ".join(words), "takes no names", "pybox volume rm NAME removes one")
    for each in volumes.volumes(where):
        if not each.users:
            volumes.remove(where, each.name)
            print(each.name)
    return 0


def _shown(each: Volume) -> dict[str, object]:
    return {
        "Name": each.name,
        "Mountpoint": each.path,
        "CreatedAt": rfc3339(each.created),
        "Labels": list(each.labels),
        "Containers": list(each.users),
    }
