"""`pybox network create|ls|inspect|rm|prune`."""

from __future__ import annotations

import json

from pybox import state
from pybox.cli.options import Option, parse_anywhere
from pybox.cli.table import FORMAT, form, table
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError
from pybox.network import networks, pool
from pybox.network.networks import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

CREATE = (
    Option(("--subnet",), "", "IPv4 addresses, a free block if left out", "CIDR"),
    Option(("--ipv6",), "", "IPv6 addresses, a random local block if left out", "CIDR"),
    Option(("--internal",), "", "containers reach each other and the host, and nothing beyond"),
)
LS = (Option(("-q", "--quiet"), "", "only names"), FORMAT)
RM = (Option(("-f", "--force"), "", "say nothing of a network that is not there"),)


def network(where: Dirs, words: list[str]) -> int:
    """Do what the first word says."""
    verbs = {"create": _create, "ls": _ls, "list": _ls, "inspect": _inspect, "rm": _rm, "prune": _prune}
    verb, rest = (words or [""])[0], words[1:]
    if verb not in verbs:
        raise SpecError("network", verb, "must be followed by create, ls, inspect, rm or prune")
    state.sweep(where)  # what a killed pybox still has on a network is nobody's
    return verbs[verb](where, rest)


def _create(where: Dirs, words: list[str]) -> int:
    parsed = parse_anywhere(CREATE, words)
    if len(parsed.rest) != 1:
        raise SpecError("network create", " ".join(parsed.rest), "takes one name")
    subnet, subnet6 = parsed.one("subnet") or "", parsed.one("ipv6") or ""
    print(networks.create(where, parsed.rest[0], subnet, subnet6, parsed.has("internal")).name)
    return 0


def _ls(where: Dirs, words: list[str]) -> int:
    parsed = parse_anywhere(LS, words)
    kind = form(parsed, "table", "json")
    found = [networks.load(where, name) for name in networks.names(where)]
    if parsed.has("quiet"):
        print("".join(f"{one.name}\n" for one in found), end="")
    elif kind == "json":
        print(json.dumps([_describe(where, one) for one in found], indent=2))
    else:
        rows = [("NAME", "BRIDGE", "SUBNET", "IPV6", "CONTAINERS")]
        for one in found:
            count = len(pool.leases(where.state, one.name))
            rows.append((one.name, one.bridge, one.subnet, one.subnet6 or "-", str(count)))
        print(table(rows))
    return 0


def _describe(where: Dirs, one: Network) -> dict[str, Json]:
    members: dict[str, Json] = {
        lease.identity: {"names": list(lease.names), "address": lease.address, "address6": lease.address6, "link": lease.link}
        for lease in pool.leases(where.state, one.name)
    }
    plain = dict(one.items())
    return {**{key: value for key, value in plain.items() if isinstance(value, (str, bool, float))}, "containers": members}


def _inspect(where: Dirs, words: list[str]) -> int:
    parsed = parse_anywhere((), words)
    if not parsed.rest:
        raise SpecError("network inspect", "", "needs a name")
    trouble: list[Json] = list(networks.trouble())
    if not networks.answers_at_localhost6():
        trouble.append(f"br_netfilter keeps published ports from answering at ::1, not at 127.0.0.1: {networks.LOCALHOST6}")
    print(json.dumps([{**_describe(where, networks.load(where, name)), "in_the_way": trouble} for name in parsed.rest], indent=2))
    return 0


def _rm(where: Dirs, words: list[str]) -> int:
    parsed = parse_anywhere(RM, words)
    if not parsed.rest:
        raise SpecError("network rm", "", "needs a name")
    for name in parsed.rest:
        if parsed.has("force") and name not in networks.names(where):
            continue
        networks.remove(where, name)
        print(name)
    return 0


def _prune(where: Dirs, words: list[str]) -> int:
    if words:
        raise SpecError("network prune", " ".join(words), "takes no words")
    for name in networks.names(where):
        if name != networks.DEFAULT and not pool.holders(where.state, name):
            try:
                networks.remove(where, name)
                print(name)
            except PyboxError:  # somebody has just joined it
                continue
    return 0
