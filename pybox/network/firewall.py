"""The rules: address translation, published ports, allow-lists. All in tables of pybox's own, each change one transaction.

    table inet pybox      what is routed. The rules are fixed; what changes are elements of its sets and maps: a network adds its
                          bridge and subnets, a published port one element, a container with an allow-list one element and one chain
    table bridge pybox    what is not routed: what a container says it is (members.py has the elements), and what it may send to
                          its neighbours

Other people's rules are never touched, and an "accept" here does not overrule a "drop" of theirs: nftables asks every table.
"""

from __future__ import annotations

from pybox.network import members, nft, rtnl
from pybox.network.pool import Claimed, Lease

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.netspec import Allowed

_PORTS = "inet_proto . inet_service"
_HOOK = "type filter hook {0} priority {1}; policy accept;"

_BASE = f"""
add table inet pybox
add set inet pybox bridges {{ type ifname; }}
add set inet pybox internal {{ type ifname; }}
add set inet pybox neighbours {{ type ifname . ifname; }}
add set inet pybox subnets {{ type ipv4_addr; flags interval; }}
add set inet pybox subnets6 {{ type ipv6_addr; flags interval; }}
add map inet pybox ports {{ type {_PORTS} : ipv4_addr . inet_service; }}
add map inet pybox ports_at {{ type ipv4_addr . {_PORTS} : ipv4_addr . inet_service; }}
add map inet pybox ports6 {{ type {_PORTS} : ipv6_addr . inet_service; }}
add map inet pybox ports6_at {{ type ipv6_addr . {_PORTS} : ipv6_addr . inet_service; }}
add map inet pybox fenced {{ type ipv4_addr : verdict; }}
add map inet pybox fenced6 {{ type ipv6_addr : verdict; }}
add chain inet pybox guard {{ {_HOOK.format("prerouting", -300)} }}
add chain inet pybox publish
add chain inet pybox from_outside {{ type nat hook prerouting priority -100; policy accept; }}
add chain inet pybox from_host {{ type nat hook output priority -100; policy accept; }}
add chain inet pybox leaving {{ type nat hook postrouting priority 100; policy accept; }}
add chain inet pybox crossing {{ {_HOOK.format("forward", 0)} }}
add chain inet pybox to_host {{ {_HOOK.format("input", 0)} }}
flush chain inet pybox guard
flush chain inet pybox publish
flush chain inet pybox from_outside
flush chain inet pybox from_host
flush chain inet pybox leaving
flush chain inet pybox crossing
flush chain inet pybox to_host
add rule inet pybox guard iifname @bridges ip daddr 127.0.0.0/8 drop comment "route_localnet is for the host only (CVE-2020-8558)"
add rule inet pybox guard iifname @bridges ip6 daddr ::1 drop
add rule inet pybox publish meta l4proto {{ tcp, udp }} dnat ip addr . port to ip daddr . meta l4proto . th dport map @ports_at
add rule inet pybox publish meta l4proto {{ tcp, udp }} dnat ip addr . port to meta l4proto . th dport map @ports
add rule inet pybox publish meta l4proto {{ tcp, udp }} dnat ip6 addr . port to ip6 daddr . meta l4proto . th dport map @ports6_at
add rule inet pybox publish meta l4proto {{ tcp, udp }} dnat ip6 addr . port to meta l4proto . th dport map @ports6
add rule inet pybox from_outside fib daddr type local jump publish
add rule inet pybox from_host fib daddr type local jump publish
add rule inet pybox leaving oifname @bridges fib saddr type local ct status dnat masquerade comment "from 127.0.0.1 to a port"
add rule inet pybox leaving oifname @bridges iifname @bridges ct status dnat masquerade comment "to a neighbour by the host's port"
add rule inet pybox leaving ip saddr @subnets oifname != @bridges masquerade
add rule inet pybox leaving ip6 saddr @subnets6 oifname != @bridges masquerade
add rule inet pybox crossing ct state established,related accept
add rule inet pybox crossing iifname . oifname @neighbours icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept comment "as ARP, which is not asked here"
add rule inet pybox crossing ip saddr vmap @fenced
add rule inet pybox crossing ip6 saddr vmap @fenced6
add rule inet pybox crossing iifname . oifname @neighbours accept comment "where br_netfilter shows what is not routed"
add rule inet pybox crossing iifname @internal reject with icmpx type admin-prohibited
add rule inet pybox crossing ct status dnat accept
add rule inet pybox crossing oifname @bridges drop comment "nobody outside reaches what is not published, nor another network"
add rule inet pybox to_host ct state established,related accept
add rule inet pybox to_host icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept comment "else no answer finds back"
add rule inet pybox to_host ip saddr vmap @fenced
add rule inet pybox to_host ip6 saddr vmap @fenced6
"""

_BRIDGE = """
add table bridge pybox
add set bridge pybox links { type ifname; }
add set bridge pybox who { type ifname . ether_addr . ipv4_addr; }
add set bridge pybox who6 { type ifname . ether_addr . ipv6_addr; }
add set bridge pybox claims { typeof iifname . ether saddr . @nh,384,128; }
add map bridge pybox sends { type ifname : verdict; }
add chain bridge pybox entering { type filter hook prerouting priority -300; policy accept; }
add chain bridge pybox crossing { type filter hook forward priority 0; policy accept; }
flush chain bridge pybox entering
flush chain bridge pybox crossing
add rule bridge pybox entering iifname != @links accept
add rule bridge pybox entering icmpv6 type { nd-router-advert, nd-redirect } drop comment "a container is no router (CVE-2020-10749)"
add rule bridge pybox entering icmpv6 type nd-neighbor-advert iifname . ether saddr . @nh,384,128 != @claims drop
add rule bridge pybox entering iifname . ether saddr . arp saddr ip @who accept
add rule bridge pybox entering iifname . ether saddr . ip saddr @who accept
add rule bridge pybox entering iifname . ether saddr . ip6 saddr @who6 accept
add rule bridge pybox entering drop
add rule bridge pybox crossing iifname vmap @sends
"""


def is_there() -> bool:
    """Return whether both tables are: somebody's `nft flush ruleset` takes them away. Two messages to the kernel."""
    table = rtnl.attribute(1, b"pybox\0")
    questions = (
        rtnl.Message(0x0A01, 0, bytes((1, 0, 0, 0)) + table),  # NFT_MSG_GETTABLE, NFPROTO_INET
        rtnl.Message(0x0A0A, 0, bytes((7, 0, 0, 0)) + table + rtnl.attribute(2, b"who\0")),  # NFT_MSG_GETSET, NFPROTO_BRIDGE
    )
    with rtnl.Kernel(protocol=12) as kernel:  # NETLINK_NETFILTER
        try:
            return all(kernel.one(question) is not None for question in questions)
        except OSError:
            return False


def add_network(bridge: str, subnet: str, subnet6: str, internal: bool) -> None:
    """Let a network through; the fixed rules are written with it. Raises NftError."""
    script = _BASE + _BRIDGE + f'add element inet pybox bridges {{ "{bridge}" }}\n'
    script += f'add element inet pybox neighbours {{ "{bridge}" . "{bridge}" }}\n'
    if internal:
        script += f'add element inet pybox internal {{ "{bridge}" }}\n'
    else:
        script += f"add element inet pybox subnets {{ {subnet} }}\n"
        script += f"add element inet pybox subnets6 {{ {subnet6} }}\n" if subnet6 else ""
    nft.run(script)


def remove_network(bridge: str, subnet: str, subnet6: str, last: bool) -> None:
    """Take a network out, and with the last one everything. Raises NftError."""
    if last:
        nft.run("add table inet pybox\ndelete table inet pybox\nadd table bridge pybox\ndelete table bridge pybox\n")
    elif is_there():
        script = ""
        for name, element in (
            ("bridges", f'"{bridge}"'),
            ("internal", f'"{bridge}"'),
            ("neighbours", f'"{bridge}" . "{bridge}"'),
            ("subnets", subnet),
            ("subnets6", subnet6),
        ):
            if element:
                script += f"add element inet pybox {name} {{ {element} }}\ndelete element inet pybox {name} {{ {element} }}\n"
        nft.run(script)


def _elements(port: Claimed) -> list[str]:
    """Return (map, element) of a port, as nft writes them."""
    key = f"{port.protocol} . {port.host}"
    if ":" in port.address:
        return [f"ports6_at {{ {port.address} . {key} : {port.to6} . {port.inside} }}"]
    if port.address != "0.0.0.0":
        return [f"ports_at {{ {port.address} . {key} : {port.to} . {port.inside} }}"]
    both = [f"ports {{ {key} : {port.to} . {port.inside} }}"]
    return [*both, f"ports6 {{ {key} : {port.to6} . {port.inside} }}"] if port.to6 else both


def publish(ports: list[Claimed]) -> None:
    """Lead ports of the host to containers, all or none. Raises NftError: of a port that is another's, too."""
    nft.run("".join(f"create element inet pybox {element}\n" for port in ports for element in _elements(port)))


def restore(ports: list[Claimed]) -> None:
    """Publish what is published already, as far as the rules have forgotten it. Raises NftError."""
    if ports and is_there():
        nft.run("".join(f"add element inet pybox {element}\n" for port in ports for element in _elements(port)))


def withdraw(ports: list[Claimed], leases: list[Lease]) -> None:
    """Undo publish; also what was never done. The container has ended, so its leases' elements go with it. Raises NftError."""
    if ports and is_there():
        both = (f"add element inet pybox {e}\ndelete element inet pybox {e}\n" for port in ports for e in _elements(port))
        nft.run("".join((*both, *map(members.script, leases))))


def _destinations(allowed: list[tuple[Allowed, tuple[str, ...]]], verdict: str) -> list[str]:
    """Return the conditions of an allow-list, as ends of rules."""
    found = []
    for one, addresses in allowed:
        ports = "" if (one.first, one.last) == (0, 65535) else f" meta l4proto {{ tcp, udp }} th dport {one.first}-{one.last}"
        for address in addresses:
            found.append(f"{'ip6' if ':' in address else 'ip'} daddr {address}{ports} {verdict}")
    return found


def _fenced(identity: str, one: Lease) -> list[str]:
    """Return the elements that send what comes from a container through its allow-list."""
    found = [
        f'bridge pybox sends {{ "{one.link}" : jump sends-{identity} }}',
        f"inet pybox fenced {{ {one.address} : jump fence-{identity} }}",
    ]
    own6 = (one.address6, members.link_local(one.ether)) if one.address6 else ()
    return found + [f"inet pybox fenced6 {{ {address} : jump fence-{identity} }}" for address in own6]


def fence(identity: str, leases: list[Lease], allowed: list[tuple[Allowed, tuple[str, ...]]]) -> None:
    """Let a container reach what is allowed, and nothing else: not the host, not its neighbours. Raises NftError.

    It can't get round it by calling itself something else: see members.py.
    """
    inet, bridge = f"inet pybox fence-{identity}", f"bridge pybox sends-{identity}"
    script = [f"add chain {inet}", f"add chain {bridge}"]
    script += [f"add rule {inet} {rule}" for rule in _destinations(allowed, "accept")]
    script.append(f"add rule {inet} reject with icmpx type admin-prohibited")
    script.append(f"add rule {bridge} ether type arp accept")
    script += [f"add rule {bridge} {rule}" for rule in _destinations(allowed, "accept")]
    script += [f"add rule {bridge} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept", f"add rule {bridge} drop"]
    script += [f"add element {element}" for one in leases for element in _fenced(identity, one)]
    nft.run("\n".join(script) + "\n")


def tear_down(identity: str, leases: list[Lease]) -> None:
    """Undo fence; also what was never done. The container has ended, so its leases' elements go with it. Raises NftError."""
    if not is_there() or not leases:
        return
    inet, bridge = f"inet pybox fence-{identity}", f"bridge pybox sends-{identity}"
    script = [f"add chain {inet}", f"add chain {bridge}"]
    elements = [element for one in leases for element in _fenced(identity, one)]
    script += [f"{verb} element {element}" for element in elements for verb in ("add", "delete")]
    script += [f"{verb} chain {chain}" for verb in ("flush", "delete") for chain in (inet, bridge)]
    nft.run("\n".join((*script, *map(members.script, leases))))


def in_the_way() -> list[str]:
    """Return what other people's rules do to packets that are forwarded."""
    found, table = [], ""
    for line in nft.run("list chains").splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif "hook forward" in line and "policy drop" in line and not table.endswith(" pybox"):
            found.append(
                f"the table {table} of nftables drops what is forwarded: allow pybox's bridges there, e.g. "
                'nft insert rule ip filter FORWARD iifname "pybox*" accept, and the same with oifname'
            )
    return found
