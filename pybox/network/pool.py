"""Who has which address and which port of the host. Each is a symlink, so claiming one is one atomic system call, and no lock.

    <state>/net/NAME/PLACE           -> ID POSITION[/MAC] IPV4 IPV6|- NAME...    an address of the network, for eth<POSITION>
    <state>/ports/tcp,0.0.0.0,8080   -> ID IPV4 80 [IPV6]                  a port of the host, and where it leads

What a killed pybox has claimed, its journal knows (the verbs ``lease`` and ``ports`` of undo.py): whoever undoes it looks for the id.
"""

from __future__ import annotations

import os

from pybox.dirs import ensure
from pybox.errors import StateError
from pybox.netspec import parse_mac
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.network.networks import Network


_NOBODYS = ("", "localhost", "ip6-localhost", "ip6-loopback")  # names that would lead its neighbours astray


class Lease(Record):
    """A claimed place of a network."""

    network: str
    place: int
    identity: str
    position: int  # of the interface in the container
    address: str
    address6: str  # "" none
    names: tuple[str, ...]
    mac: str = ""  # that was asked for

    @property
    def link(self) -> str:
        """The host's name for the container's interface."""
        return link_name(self.identity, self.position)

    @property
    def ether(self) -> bytes:
        """The Ethernet address of the container's interface."""
        return parse_mac(self.mac) if self.mac else bytes((2 | self.position << 2, *bytes.fromhex(self.identity)[1:]))


class Claimed(Record):
    """A claimed port of the host, and where it leads."""

    protocol: str
    address: str  # of the host; "0.0.0.0" all of them
    host: int
    identity: str
    to: str
    inside: int
    to6: str = ""

    def target(self) -> str:
        """Return what its symlink says."""
        return f"{self.identity} {self.to} {self.inside} {self.to6}".rstrip()


def claim(path: str, target: str) -> str:
    """Make a symlink; returns "" or, when it is there already, what it says: whose it is. Its directory is made."""
    while True:
        try:
            os.symlink(target, path)
            return ""
        except FileExistsError:
            try:
                return os.readlink(path)
            except FileNotFoundError:  # given up meanwhile
                continue
        except FileNotFoundError:
            ensure(os.path.dirname(path))


def link_name(identity: str, position: int) -> str:
    """Return the host's name for a container's interface: 15 characters, as long as it may be."""
    return f"pb{identity}{position}"


def lease(
    state: str, network: Network, identity: str, position: int, names: tuple[str, ...], wanted: int = 0, mac: str = ""
) -> Lease:
    """Claim a place of a network, or the one that is wanted. Raises StateError when there is none.

    One looks from a place of the id's own on, so that many at once do not all try the same, and who is started again gets the
    one it had, most of the time.
    """
    shown = tuple(dict.fromkeys(name for name in names if name not in _NOBODYS))

    def attempt(one: Lease) -> str:
        words = (identity, f"{position}/{mac}".rstrip("/"), one.address, one.address6 or "-", *shown)
        return claim(f"{state}/net/{network.name}/{one.place}", " ".join(words))

    def at(place: int) -> Lease:
        address6 = network.at(place, 6) if network.subnet6 else ""
        return Lease(network.name, place, identity, position, network.at(place, 4), address6, shown, mac)

    if wanted:
        other = attempt(at(wanted))
        if other:
            raise StateError(f"the address is taken by container {other.split(' ')[0]}", "leave --ip out, or choose another")
        return at(wanted)
    count = network.places - 1
    start = int(identity, 16) % count
    for step in range(count):
        place = 2 + (start + step) % count
        if not attempt(at(place)):
            return at(place)
    raise StateError(f"all {count} addresses of the network {network.name} are taken", "pybox network create another one")


def _links(path: str) -> Iterator[tuple[str, list[str]]]:
    try:
        found = os.listdir(path)
    except FileNotFoundError:
        return
    for name in found:
        try:
            yield name, os.readlink(f"{path}/{name}").split(" ")
        except OSError:
            continue


def leases(state: str, network: str) -> list[Lease]:
    """Return all claimed places of a network, in order."""
    found = []
    for name, words in _links(f"{state}/net/{network}"):
        position, _, mac = words[1].partition("/")
        found.append(Lease(network, int(name), words[0], int(position), words[2], words[3].strip("-"), tuple(words[4:]), mac))
    return sorted(found, key=lambda one: one.place)


def holders(state: str, network: str) -> set[str]:
    """Return the ids of all containers that have a place on a network."""
    return {one.identity for one in leases(state, network)}


def networks(state: str) -> list[str]:
    """Return the networks that somebody has a place on."""
    try:
        return sorted(os.listdir(f"{state}/net"))
    except FileNotFoundError:
        return []


def all_leases(state: str) -> list[Lease]:
    """Return all claimed places."""
    return [one for network in networks(state) for one in leases(state, network)]


def ports(state: str) -> list[Claimed]:
    """Return all claimed ports of the host, in order."""
    found = []
    for name, words in _links(f"{state}/ports"):
        protocol, address, host = name.split(",")
        found.append(Claimed(protocol, address, int(host), words[0], words[1], int(words[2]), words[3] if words[3:] else ""))
    return sorted(found, key=lambda one: (one.protocol, one.address, one.host))


def shown_ports(state: str) -> dict[str, list[str]]:
    """Return what `ps` shows of published ports, by container: ``127.0.0.1:8080->80/tcp``."""
    found: dict[str, list[str]] = {}
    for port in ports(state):
        place = f"[{port.address}]" if ":" in port.address else port.address
        found.setdefault(port.identity, []).append(f"{place}:{port.host}->{port.inside}/{port.protocol}")
    return found


def port_path(state: str, port: Claimed) -> str:
    """Return the symlink of a port."""
    return f"{state}/ports/{port.protocol},{port.address},{port.host}"


def release(path: str, identity: str) -> bool:
    """Give up what an id has claimed in a directory; returns whether it had anything."""
    had = False
    for name, words in _links(path):
        if words[0] == identity:
            had = True
            try:
                os.unlink(f"{path}/{name}")
            except FileNotFoundError:
                pass
    try:
        os.rmdir(path)
    except OSError:  # others have something in it, or nobody ever had
        pass
    return had
