"""Which networks there are, and the bridge of each.

    <store>/networks/NAME    JSON: subnets and the name of the bridge. Written once, by rename; without it there is no such network

The network ``pybox`` is made when it is first asked for. A bridge is made by the first container that needs it (also after a
reboot), and put up last: one that is up has its addresses, and one that is not was left by a killed pybox and is made again. Both
under a lock on that directory; a run takes it only when something is missing.
"""

from __future__ import annotations

import os
from fcntl import LOCK_EX, flock
from time import time

from pybox import fastjson
from pybox.dirs import Dirs, ensure
from pybox.errors import PyboxError, SpecError, StateError
from pybox.host import read
from pybox.netspec import check_name, family, number, parse_subnet, text
from pybox.network import firewall, members, pool, rtnl
from pybox.record import Record
from pybox.specjson import to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "pybox"
LOCALHOST6 = "sysctl -w net.bridge.bridge-nf-call-ip6tables=0"  # what lets published ports answer at ::1


class Network(Record):
    """A network: all containers on it see each other, and through the host's addresses the world, unless it is internal."""

    name: str
    bridge: str  # interface of the host
    subnet: str  # IPv4, "10.144.0.0/20"
    subnet6: str = ""  # IPv6, a ULA; "" none
    internal: bool = False  # not beyond the host
    created: float = 0.0

    def at(self, place: int, kind: int) -> str:
        """Return the address of a place on it, as text; ``kind`` is 4 or 6."""
        base, _ = parse_subnet("network", self.subnet if kind == 4 else self.subnet6)
        return text(number(base) + place, kind)

    def place(self, address: str) -> int:
        """Return the place of an address. Raises SpecError for one that is not of it, or not to be had."""
        block = self.subnet if family(address) == 4 else self.subnet6
        if not block:
            raise SpecError("ip", address, f"the network {self.name} has no IPv6")
        base, length = parse_subnet("network", block)
        found = number(address) - number(base)
        if not 0 <= found < 1 << ((32 if family(address) == 4 else 128) - length):
            raise SpecError("ip", address, f"not of the network {self.name}, {block}")
        if not 2 <= found <= self.places:
            raise SpecError("ip", address, f"not one that a container can have in {block}")
        return found

    @property
    def prefix(self) -> int:
        """The length of the IPv4 prefix."""
        return parse_subnet("network", self.subnet)[1]

    @property
    def places(self) -> int:
        """The last place that a container can have; 1 is the host's."""
        return (1 << (32 - self.prefix)) - 2


def folder(dirs: Dirs) -> str:
    """Return the directory of the networks."""
    return f"{dirs.store}/networks"


def load(dirs: Dirs, name: str) -> Network:
    """Return a network; the default one is made if it is missing. Raises StateError."""
    text_of = read(f"{folder(dirs)}/{check_name(name)}")
    if text_of:
        return _parse(text_of, name)
    if name == DEFAULT:
        return create(dirs, name, there=True)
    raise StateError(f"no such network: {name}", f"pybox network create {name}; `pybox network ls` lists them")


def _parse(text_of: str, name: str) -> Network:
    try:
        value = fastjson.loads(text_of)
        assert isinstance(value, dict)
        return Network.of({key: entry for key, entry in value.items() if key != "schema"})
    except (ValueError, TypeError, AssertionError):
        raise StateError(f"the network {name} is of another version of pybox", f"pybox network rm -f {name}") from None


def names(dirs: Dirs) -> list[str]:
    """Return the names of all networks."""
    try:
        return sorted(name for name in os.listdir(folder(dirs)) if not name.startswith("."))
    except FileNotFoundError:
        return []


class Locked:
    """The lock on all networks of a store."""

    def __init__(self, dirs: Dirs) -> None:
        self._path = folder(dirs)
        self._fd = -1

    def __enter__(self) -> None:
        self._fd = os.open(ensure(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        flock(self._fd, LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def create(dirs: Dirs, name: str, subnet: str = "", subnet6: str = "", internal: bool = False, there: bool = False) -> Network:
    """Make a network. Raises SpecError, StateError when it exists already (unless ``there``) or nothing is free."""
    check_name(name)
    if subnet and not (family(subnet.partition("/")[0]) == 4 and 8 <= parse_subnet("subnet", subnet)[1] <= 29):
        raise SpecError("subnet", subnet, "must be IPv4 with a prefix of 8 to 29", "e.g. 10.7.0.0/24")
    if subnet6 and not (family(subnet6.partition("/")[0]) == 6 and parse_subnet("ipv6", subnet6)[1] == 64):
        raise SpecError("ipv6", subnet6, "must be IPv6 with a prefix of 64", "e.g. fd12:3456:789a::/64")
    with Locked(dirs):
        path = f"{folder(dirs)}/{name}"
        text_of = read(path)
        if text_of and there:
            return _parse(text_of, name)
        if text_of:
            raise StateError(f"there is a network {name} already", f"pybox network inspect {name}")
        taken = [*_routes(), *(_parse(read(f"{folder(dirs)}/{other}"), other).subnet for other in names(dirs))]
        block = subnet or _free(taken)
        if subnet and any(_overlap(subnet, other) for other in taken):
            raise SpecError(
                "subnet", subnet, "the host has a route, or another network, there", "leave it out: a free one is found"
            )
        own6 = subnet6 or (_random6() if os.path.exists("/proc/net/if_inet6") else "")
        made = Network(name, _bridge_name(dirs, name), block, own6, internal, time())
        fd = os.open(f"{folder(dirs)}/.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, fastjson.dumps({"schema": "pybox.network/1", **to_json(made)}).encode())
        finally:
            os.close(fd)
        os.rename(f"{folder(dirs)}/.new", path)
        return made


def _bridge_name(dirs: Dirs, name: str) -> str:
    """Return a name for the bridge that no interface and no other network has: 15 characters at most."""
    used = {_parse(read(f"{folder(dirs)}/{other}"), other).bridge for other in names(dirs)}
    stem = "pybox" if name == DEFAULT else f"pb-{name.replace('.', '-')[:9]}-"
    with rtnl.Kernel() as kernel:
        for count in range(1000):
            found = f"{stem}{count}"
            if found not in used and kernel.link(found) is None:
                return found
    raise StateError(f"no name is left for the bridge of {name}")


def _routes() -> Iterator[str]:
    """Yield the IPv4 blocks that the host has routes to, the default route aside."""
    for line in read("/proc/net/route").splitlines()[1:]:
        fields = line.split("\t")
        base, mask = (int.from_bytes(bytes.fromhex(fields[column])[::-1]) for column in (1, 7))
        if mask:
            yield f"{text(base, 4)}/{mask.bit_count()}"


def _overlap(one: str, other: str) -> bool:
    (a, a_length), (b, b_length) = parse_subnet("subnet", one), parse_subnet("subnet", other)
    shift = 32 - min(a_length, b_length)
    return number(a) >> shift == number(b) >> shift


def _free(taken: list[str]) -> str:
    """Return a block of 4094 addresses in 10.144.0.0/12, which docker, podman and libvirt don't use by themselves."""
    for count in range(256):
        block = f"10.{144 + count // 16}.{count % 16 * 16}.0/20"
        if not any(_overlap(block, other) for other in taken):
            return block
    raise StateError("no block of addresses is free below 10.144.0.0/12", "pybox network create NAME --subnet 192.168.77.0/24")


def _random6() -> str:
    """Return a unique local block: 40 random bits, RFC 4193."""
    return text(int.from_bytes(b"\xfd" + os.urandom(5) + bytes(10)), 6) + "/64"


def bring_up(dirs: Dirs, network: Network) -> int:
    """Make the bridge and its rules, unless they are there; returns the index of the interface. Raises OSError, PyboxError."""
    with rtnl.Kernel() as kernel:
        link = kernel.link(network.bridge)
        if link is not None and link.up and firewall.is_there():
            return link.index
        with Locked(dirs):
            if not firewall.is_there():
                _restore(dirs, kernel)
            return _bring_up(kernel, network)


def _restore(dirs: Dirs, kernel: rtnl.Kernel) -> None:
    """Write the rules anew for all who run, after somebody's `nft flush ruleset`.

    Whoever had an allow-list is left out, and so cut off: what was in it nobody remembers.
    """
    for name in names(dirs):
        network = _parse(read(f"{folder(dirs)}/{name}"), name)
        if kernel.link(network.bridge) is not None:
            firewall.add_network(network.bridge, network.subnet, network.subnet6, network.internal)
            for lease in pool.leases(dirs.state, name):
                fenced = '"fence"' in read(f"{dirs.state}/{lease.identity}/journal")
                (members.bar if fenced else members.admit)(lease)
    firewall.restore(pool.ports(dirs.state))


def _bring_up(kernel: rtnl.Kernel, network: Network) -> int:
    link = kernel.link(network.bridge)
    if link is not None and not link.up:
        kernel.ask(rtnl.remove(network.bridge))
        link = None
    if link is None:
        # a fixed address: else it is that of the lowest port and changes under connections
        kernel.ask(rtnl.bridge(network.bridge, b"\x02" + os.urandom(5)))
        link = kernel.link(network.bridge)
        if link is None:
            raise PyboxError(f"the bridge {network.bridge} was removed while it was made")
        addresses = [rtnl.address(link.index, number(network.at(1, 4)).to_bytes(4), network.prefix)]
        if network.subnet6:
            addresses.append(rtnl.address(link.index, number(network.at(1, 6)).to_bytes(16), 64))
        # what comes from the host's own 127.0.0.1 to a published port leaves by this bridge; firewall.py keeps others out
        _set(f"/proc/sys/net/ipv4/conf/{network.bridge}/route_localnet", "1")
        for name in ("ipv4/{}/accept_source_route", "ipv4/{}/accept_redirects", "ipv6/{}/accept_redirects", "ipv6/{}/accept_ra"):
            _set(f"/proc/sys/net/{name.format('conf/' + network.bridge)}", "0")  # a container does not tell the host ways to go
        firewall.add_network(network.bridge, network.subnet, network.subnet6, network.internal)
        kernel.ask(*addresses, rtnl.put_up(link.index), *_localhost6(network, link.index))
    else:
        firewall.add_network(network.bridge, network.subnet, network.subnet6, network.internal)
    return link.index


def _localhost6(network: Network, index: int) -> list[rtnl.Message]:
    """Return what lets a published port answer at ::1.

    IPv6 has no route_localnet, and needs none: what goes out from ::1 gets the host's address on the bridge. But the answer, which
    is given ::1 back, is taken for the host's only where a route says so for the interface that it came in at. What others send
    to ::1 the kernel drops before it looks at routes; where br_netfilter translates on the bridge already, our answer, too.
    """
    return [rtnl.local_route(index, bytes(15) + b"\1")] if network.subnet6 else []


def answers_at_localhost6() -> bool:
    """Return whether a published port can answer at ::1 on this host."""
    return read("/proc/sys/net/bridge/bridge-nf-call-ip6tables").strip() != "1"


def _set(path: str, value: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # no IPv6
        return
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def remove(dirs: Dirs, name: str) -> None:
    """Remove a network that no container is on. Raises StateError."""
    if name not in names(dirs):
        raise StateError(f"no such network: {name}", "`pybox network ls` lists them")
    with Locked(dirs):
        users = pool.holders(dirs.state, name)
        if users:
            raise StateError(f"the network {name} is used by {', '.join(sorted(users))}", "`pybox rm -f` them first")
        try:
            network = _parse(read(f"{folder(dirs)}/{name}"), name)
        except StateError:
            network = None
        if network is not None:
            with rtnl.Kernel() as kernel:
                if kernel.link(network.bridge) is not None:
                    kernel.ask(rtnl.remove(network.bridge))
            firewall.remove_network(network.bridge, network.subnet, network.subnet6, last=len(names(dirs)) == 1)
        os.unlink(f"{folder(dirs)}/{name}")


def trouble(thorough: bool = True) -> list[str]:
    """Return what keeps containers from the world though nothing of pybox's is wrong; each with what to do about it.

    ``thorough`` looks at other people's rules, too.
    """
    found = []
    if read("/proc/sys/net/ipv4/ip_forward").strip() == "0":
        found.append("this host forwards nothing, so containers reach it and each other only: sysctl -w net.ipv4.ip_forward=1")
    if thorough:
        found += firewall.in_the_way()
    return found
