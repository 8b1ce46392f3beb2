"""Steps that connect a container to networks: a bridge, an address, a pair of interfaces, ports, an allow-list, a hosts file.

What they leave on the host is journalled before and undone by the verbs lease, link, ports and fence of undo.py. The bridge and
the fixed rules stay: they are the network's (`pybox network rm`), not the container's.
"""

from __future__ import annotations

import os

from pybox import native
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError, StateError
from pybox.netspec import Port, family, number, parse_allowed, parse_host
from pybox.network import members, networks, pool, rtnl
from pybox.network.networks import Network
from pybox.network.pool import Lease, link_name
from pybox.steps.base import Desk, HostStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.netspec import Allowed
    from pybox.seen import Seen


class BringUpBridge(HostStep):
    """Make the network's bridge and the fixed rules, unless they are there: a switch in software that containers are plugged into.

    The host has the first address of each subnet and is the containers' way out. Rules: what leaves gets the host's address
    (masquerade); from outside nothing comes in that is not published; other people's rules are not touched.
    """

    call: ClassVar[str] = "sendto"
    man: ClassVar[str] = "rtnetlink(7)"
    dirs: Dirs
    network: Network

    def describe(self) -> str:
        return f"have the bridge {self.network.bridge} with {self.network.subnet}, and its rules"

    def calls(self) -> tuple[str, ...]:
        return (
            f'sendto(<netlink>, RTM_GETLINK {{IFLA_IFNAME="{self.network.bridge}"}})',
            'sendto(<netfilter>, NFT_MSG_GETTABLE {NFTA_TABLE_NAME="pybox"})',
        )

    def apply(self, desk: Desk) -> None:
        networks.bring_up(self.dirs, self.network)

    def check(self, seen: Seen) -> bool:
        with rtnl.Kernel() as kernel:
            return kernel.link(self.network.bridge) is not None


class LeaseAddress(HostStep):
    """Claim an address on the network: a symlink named after it that says whose it is, so of two who want one, one gets it.

    Who claims looks from a place of its id's own on, and takes no lock: fifty at once hardly meet.
    """

    call: ClassVar[str] = "symlink"
    man: ClassVar[str] = "symlink(2)"
    dirs: Dirs
    network: Network
    position: int
    wanted: int = 0  # a place of the network; 0 any
    names: tuple[str, ...] = ()
    mac: str = ""

    def describe(self) -> str:
        one = self.network.at(self.wanted, 4) if self.wanted else f"an address of {self.network.subnet}"
        return f"claim {one} on the network {self.network.name}"

    def _folder(self) -> str:
        return f"{self.dirs.state}/net/{self.network.name}"

    def calls(self) -> tuple[str, ...]:
        return (f'symlink("CONTAINER-ID", "{self._folder()}/{self.wanted or "PLACE"}")',)

    def leaves(self) -> tuple[tuple[str, str], ...]:
        return (("lease", f"{self._folder()}/CONTAINER-ID"),)

    def apply(self, desk: Desk) -> None:
        names = (desk.name, *self.names)
        found = pool.lease(self.dirs.state, self.network, desk.identity, self.position, names, self.wanted, self.mac)
        desk.leases[self.network.name] = found

    def check(self, seen: Seen) -> bool:
        return seen.identity in pool.holders(self.dirs.state, self.network.name)


class PlugIn(HostStep):
    """Make a pair of interfaces, one on the bridge and one born inside the container's network namespace, with its addresses.

    What goes into one comes out of the other: veth(4). The pair goes when the namespace does; the journal has it all the same,
    for the moments before and after. What comes out of it must have the addresses that it was given: a container can't speak for
    another, whatever it may do inside.
    """

    call: ClassVar[str] = "sendto"
    man: ClassVar[str] = "veth(4)"
    state: str
    network: Network
    position: int
    way_out: bool = True  # its default route leads here
    way_out6: bool = False

    def describe(self) -> str:
        return f"plug eth{self.position} into {self.network.bridge}"

    def calls(self) -> tuple[str, ...]:
        inside = f'{{IFLA_IFNAME="eth{self.position}", IFLA_NET_NS_FD=<netns>}}'
        ours = f'IFLA_IFNAME="{link_name("CONTAINER-ID", self.position)}", IFLA_MASTER={self.network.bridge}'
        return (
            'sendto(<netfilter>, NFT_MSG_NEWSETELEM {NFTA_SET_ELEM_LIST_SET="who", ...})',
            f"sendto(<netlink>, RTM_NEWLINK {{{ours}, veth, VETH_INFO_PEER={inside}}})",
            f"sendto(<netlink inside>, RTM_NEWADDR {{IFA_LOCAL=PLACE of {self.network.subnet}}}, RTM_NEWROUTE ...)",
        )

    def leaves(self) -> tuple[tuple[str, str], ...]:
        return (("link", f"{self.state}/CONTAINER-ID/link/{self.position}"),)

    def apply(self, desk: Desk) -> None:
        network, lease = self.network, desk.leases[self.network.name]
        netns, name = desk.fds["netns"], f"eth{self.position}"
        members.admit(lease)
        with rtnl.Kernel() as kernel:
            link = kernel.link(network.bridge)
            if link is None:
                raise StateError(f"the bridge {network.bridge} is gone", "try again")
            kernel.ask(rtnl.veth(lease.link, link.index, lease.ether, name, netns))
        with rtnl.Kernel(native.netlink_in(netns)) as kernel:
            inside = kernel.link(name)
            assert inside is not None
            kernel.ask(*self._addresses(inside.index, lease))

    def _addresses(self, index: int, lease: Lease) -> list[rtnl.Message]:
        network = self.network
        asked = [
            rtnl.put_up(1),
            rtnl.put_up(index),
            rtnl.address(index, number(lease.address).to_bytes(4), network.prefix),
        ]
        if lease.address6:
            asked.append(rtnl.address(index, number(lease.address6).to_bytes(16), 64))
        if self.way_out:
            asked.append(rtnl.default_route(index, number(network.at(1, 4)).to_bytes(4)))
        if self.way_out6:
            asked.append(rtnl.default_route(index, number(network.at(1, 6)).to_bytes(16)))
        return asked

    def check(self, seen: Seen) -> bool:
        return f"eth{self.position}:" in seen.file("net/dev")


class PublishPorts(HostStep):
    """Lead ports of the host to the container: one element of a map per port, all of them in one transaction of nftables.

    The port is claimed first, by a symlink that says whose it is; and a program of the host that listens there keeps its port.
    """

    call: ClassVar[str] = "nft_run_cmd_from_buffer"
    man: ClassVar[str] = "nft(8)"
    dirs: Dirs
    network: Network
    ports: tuple[Port, ...]

    def describe(self) -> str:
        shown = ", ".join(f"{port.host or 'any'}->{port.inside}/{port.protocol}" for port in self.ports[:4])
        return f"publish {shown}{' ...' if len(self.ports) > 4 else ''}"

    def calls(self) -> tuple[str, ...]:
        elements = (f"{{ {port.protocol} . {port.host or 'PORT'} : ADDRESS . {port.inside} }}" for port in self.ports)
        return tuple(f'nft_run_cmd_from_buffer(<nft>, "create element inet pybox ports {element}")' for element in elements)

    def leaves(self) -> tuple[tuple[str, str], ...]:
        return (("ports", f"{self.dirs.state}/ports/CONTAINER-ID"),)

    def apply(self, desk: Desk) -> None:
        from pybox.network import firewall, publishing

        lease = desk.leases[self.network.name]
        claimed = publishing.claim(self.dirs.state, desk.identity, self.ports, lease.address, lease.address6)
        firewall.publish(claimed)

    def check(self, seen: Seen) -> bool:
        return len([port for port in pool.ports(self.dirs.state) if port.identity == seen.identity]) == len(self.ports)


class Fence(HostStep):
    """Refuse the container every destination but those allowed: on the host's side, where nothing inside can change it.

    Not the host itself, not its neighbours, not the name servers, unless they are in the list. Names are resolved now, once, and
    put into its hosts file: what they mean later makes no difference.
    """

    call: ClassVar[str] = "nft_run_cmd_from_buffer"
    man: ClassVar[str] = "nft(8)"
    dirs: Dirs
    networks: tuple[Network, ...]
    allowed: tuple[str, ...]

    def describe(self) -> str:
        return f"let it reach {', '.join(self.allowed)} and nothing else"

    def calls(self) -> tuple[str, ...]:
        script = "add chain inet pybox fence-CONTAINER-ID; add rule ... ip daddr ... accept; add rule ... reject"
        return (f'nft_run_cmd_from_buffer(<nft>, "{script}")',)

    def leaves(self) -> tuple[tuple[str, str], ...]:
        return (("fence", f"{self.dirs.state}/CONTAINER-ID"),)

    def apply(self, desk: Desk) -> None:
        from pybox.network import firewall

        leases = [desk.leases[network.name] for network in self.networks]
        firewall.fence(desk.identity, leases, [self._resolved(desk, one) for word in self.allowed for one in parse_allowed(word)])

    def _resolved(self, desk: Desk, one: Allowed) -> tuple[Allowed, tuple[str, ...]]:
        if "/" in one.host or family(one.host):
            return one, (one.host,)
        from _socket import gaierror, getaddrinfo

        try:
            found = tuple(dict.fromkeys(str(entry[4][0]) for entry in getaddrinfo(one.host, None)))
        except (gaierror, UnicodeError):
            raise SpecError("allow-net", one.host, "this host can't resolve the name", "give its address") from None
        desk.hosts += [(one.host, address) for address in found]
        return one, found

    def check(self, seen: Seen) -> bool:
        from pybox.network import nft

        return f"fence-{seen.identity}" in nft.run("list chain inet pybox fence-" + seen.identity)


class LimitRate(HostStep):
    """Let through only so many bits a second, in each direction: a token bucket on both ends of the pair. tc-tbf(8)

    It goes with the interfaces. Inside only CAP_NET_ADMIN, which no container has by default, could take it away.
    """

    call: ClassVar[str] = "sendto"
    man: ClassVar[str] = "tc-tbf(8)"
    position: int
    rate: int  # bits a second

    def describe(self) -> str:
        return f"limit eth{self.position} to {self.rate} bits a second"

    def calls(self) -> tuple[str, ...]:
        return tuple(f"sendto({where}, RTM_NEWQDISC {{tbf rate={self.rate}bit}})" for where in ("<netlink>", "<netlink inside>"))

    def apply(self, desk: Desk) -> None:
        from pybox.network import rate

        rate.limit(link_name(desk.identity, self.position), f"eth{self.position}", desk.fds["netns"], self.rate)

    def check(self, seen: Seen) -> bool:
        return True  # `tc qdisc show` would tell; test_network_rate measures


class WriteHosts(HostStep):
    """Write the hosts file of the container, and its name into those of its neighbours: so they find each other."""

    call: ClassVar[str] = "openat"
    man: ClassVar[str] = "hosts(5)"
    dirs: Dirs
    networks: tuple[str, ...]
    gateway: str  # what host-gateway means
    hosts: tuple[str, ...] = ()

    def describe(self) -> str:
        return "write its hosts file, and its name into those of its neighbours"

    def _path(self) -> str:
        return f"{self.dirs.state}/CONTAINER-ID/hosts"

    def calls(self) -> tuple[str, ...]:
        return (f'openat(AT_FDCWD, "{self._path()}", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0644)',)

    def apply(self, desk: Desk) -> None:
        from pybox.network import names

        given = [parse_host(word) for word in self.hosts]
        more = [(name, self.gateway if address == "host-gateway" else address) for name, address in given]
        fd = os.open(desk.named(self._path()), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(fd, 0o644)  # whatever the umask
            os.write(fd, names.own_lines([*more, *desk.hosts]).encode())
        finally:
            os.close(fd)
        names.refresh(self.dirs.state, self.networks)

    def check(self, seen: Seen) -> bool:
        return os.path.exists(seen.named(self._path()))


class JoinNetwork(HostStep):
    """Take the network namespace of another container: the same interfaces, addresses and ports, two containers in one place."""

    call: ClassVar[str] = "openat"
    man: ClassVar[str] = "network_namespaces(7)"
    dirs: Dirs
    other: str

    def describe(self) -> str:
        return f"take the network of the container {self.other}"

    def calls(self) -> tuple[str, ...]:
        return ('openat(AT_FDCWD, "/proc/PID/ns/net", O_RDONLY|O_CLOEXEC)',)

    def apply(self, desk: Desk) -> None:
        from pybox.network import others

        identity, pid = others.process_of(self.dirs, self.other)
        try:
            os.close(os.open(f"{self.dirs.state}/{identity}/shared", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            desk.fds["netns"] = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PyboxError(f"the container {self.other} has just ended: {error.strerror}") from None

    def check(self, seen: Seen) -> bool:
        return bool(seen.file("net/dev"))
