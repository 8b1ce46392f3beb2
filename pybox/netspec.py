"""What may be asked of a network: ports, addresses, names, allow-lists, as text from the command line or a program, refused or read.

Nothing here looks at the host. spec.py loads it only for a container that asks for a network.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from pybox.errors import SpecError
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.spec import Net

_MOST_PORTS = 1000  # of one range


class Port(Record):
    """One published port. ``host`` 0: any that is free."""

    address: str  # of the host; "" all of them
    host: int
    inside: int
    protocol: str = "tcp"


class Allowed(Record):
    """One destination that may be reached: a name, an address or a block of them, and ports; (0, 65535): everything."""

    host: str
    first: int = 0
    last: int = 65535


def family(address: str) -> int:
    """Return 4 or 6 for an address as text, 0 for what is none."""
    for number, kind in ((4, AF_INET), (6, AF_INET6)):
        try:
            inet_pton(kind, address)
        except (OSError, ValueError):
            continue
        return number
    return 0


def number(address: str) -> int:
    """Return an address as a number."""
    return int.from_bytes(inet_pton(AF_INET6 if ":" in address else AF_INET, address))


def text(value: int, kind: int) -> str:
    """Return the address of a number; ``kind`` is 4 or 6."""
    return inet_ntop(AF_INET if kind == 4 else AF_INET6, value.to_bytes(4 if kind == 4 else 16))


def parse_subnet(field: str, block: str) -> tuple[str, int]:
    """Return address and prefix length of a block like 10.1.0.0/16. Raises SpecError."""
    address, slash, length = block.partition("/")
    kind = family(address)
    most = 32 if kind == 4 else 128
    if not (kind and slash and length.isascii() and length.isdigit() and len(length) < 4 and int(length) <= most):
        raise SpecError(field, block, "not a block of addresses", "e.g. 10.1.0.0/16 or fd00:1::/64")
    if number(address) & ((1 << (most - int(length))) - 1):
        raise SpecError(field, block, "has bits beyond its prefix", "e.g. 10.1.0.0/16, not 10.1.2.3/16")
    return text(number(address), kind), int(length)


def _range(field: str, whole: str, words: str) -> tuple[int, int]:
    first, dash, last = words.partition("-")
    last = last if dash else first
    for word in (first, last):
        if not (word.isascii() and word.isdigit() and len(word) <= 5 and 1 <= int(word) <= 65535):
            raise SpecError(field, whole, "a port is a number from 1 to 65535", "-p [IP:]HOST:CONTAINER[/udp]")
    if int(first) > int(last):
        raise SpecError(field, whole, "the range goes backwards")
    return int(first), int(last)


def parse_port(word: str) -> tuple[Port, ...]:
    """Read ``[IP:][HOST:]CONTAINER[/tcp|/udp]``; HOST and CONTAINER may be ranges of one length. Raises SpecError."""
    body, slash, protocol = word.partition("/")
    protocol = protocol if slash else "tcp"
    if protocol not in ("tcp", "udp"):
        raise SpecError("publish", word, "the protocol must be tcp or udp")
    address = ""
    if body.startswith("["):
        address, bracket, body = body[1:].partition("]:")
        if not bracket or family(address) != 6:
            raise SpecError("publish", word, "not an IPv6 address in brackets", "-p [::1]:8080:80")
    elif body.count(":") == 2:
        address, _, body = body.partition(":")
        if family(address) != 4:
            raise SpecError("publish", word, "not an IP address of the host", "-p [IP:]HOST:CONTAINER[/udp]")
    if address and number(address) == 0:
        address = ""
    host, _, inside = body.rpartition(":")
    low, high = _range("publish", word, inside)
    if high - low >= _MOST_PORTS:
        raise SpecError("publish", word, f"more than {_MOST_PORTS} ports")
    if not host:
        return tuple(Port(address, 0, port, protocol) for port in range(low, high + 1))
    first, last = _range("publish", word, host)
    if last - first != high - low:
        raise SpecError("publish", word, "the two ranges differ in length")
    return tuple(Port(address, first + count, low + count, protocol) for count in range(high - low + 1))


def parse_ports(words: tuple[str, ...]) -> tuple[Port, ...]:
    """Read all of ``-p``. Raises SpecError."""
    found = [port for word in words for port in parse_port(word)]
    claimed = [(port.address, port.host, port.protocol) for port in found if port.host]
    for one in claimed:
        if claimed.count(one) > 1:
            raise SpecError("publish", f"{one[1]}/{one[2]}", "is published twice")
    return tuple(found)


def is_name(name: str) -> bool:
    """Return whether it can be the name of a host or a network."""
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    return len(name) <= 253 and plain.isascii() and plain.isalnum() and name[0] not in "-."


def parse_allowed(word: str) -> tuple[Allowed, ...]:
    """Read ``HOST[:PORT[-PORT]]``, ``IP``, ``CIDR``, ``[IPv6]:PORT``, with commas between several; ``none``. Raises SpecError."""
    found = []
    for part in word.split(","):
        if part == "none":
            continue
        host, ports = part, ""
        if part.startswith("["):
            host, _, ports = part[1:].partition("]")
            ports = ports.removeprefix(":")
        elif part.count(":") == 1:
            host, _, ports = part.partition(":")
        if "/" in host:
            block, length = parse_subnet("allow-net", host)
            host = f"{block}/{length}"
        elif not family(host) and (not is_name(host) or host.replace(".", "").isdigit()):
            raise SpecError("allow-net", part or word, "not a host, an address or a block of them", "pypi.org:443,10.0.0.0/8")
        found.append(Allowed(host, *(_range("allow-net", part, ports) if ports else ())))
    return tuple(found)


def parse_host(word: str) -> tuple[str, str]:
    """Read ``NAME:IP`` of --add-host; ``host-gateway`` is the host. Raises SpecError."""
    name, colon, address = word.partition(":")
    address = address.strip("[]")
    if not colon or not is_name(name) or not (family(address) or address == "host-gateway"):
        raise SpecError("add-host", word, "must be NAME:IP", "NAME:host-gateway is the host itself")
    return name, address


def network_names(network: str) -> tuple[str, ...]:
    """Return the networks of a Spec's ``network``; none for none, host and that of another container."""
    return () if network in ("none", "host") or network.startswith("container:") else tuple(network.split(","))


def validate(network: str, net: Net) -> None:
    """Refuse what can't be meant. Raises SpecError."""
    names = network_names(network)
    for name in names:
        check_name(name)
        if names.count(name) > 1:
            raise SpecError("network", name, "is asked for twice")
    if len(names) > 8:
        raise SpecError("network", network, "more than 8 networks")
    if network.startswith("container:") and not is_name(network.removeprefix("container:")):
        raise SpecError("network", network, "must be container:NAME or container:ID")
    if not names:
        asked = (("ip", net.ip), ("mac-address", net.mac), ("publish", net.ports or net.publish_all),
                 ("allow-net", net.allow), ("net-rate", net.rate))  # fmt: skip
        for option, value in asked:
            if value:
                raise SpecError(
                    option, "", f"can't be together with --network {network}", "--network pybox, or a name of `pybox network ls`"
                )
        if network == "host" and (net.dns or net.hosts):
            raise SpecError("dns" if net.dns else "add-host", "", "can't be together with --network host")
    for address in net.ip:
        if not family(address):
            raise SpecError("ip", address, "not an IP address")
    if len({family(address) for address in net.ip}) < len(net.ip):
        raise SpecError("ip", net.ip[-1], "at most one IPv4 and one IPv6 address")
    for address in net.dns:
        if not family(address):
            raise SpecError("dns", address, "not an IP address")
    if net.mac:
        parse_mac(net.mac)
    for word in net.hosts:
        parse_host(word)
    parse_ports(net.ports)
    for word in net.allow:
        parse_allowed(word)
    if net.rate is not None and not 8_000 <= net.rate <= 1_000_000_000_000:
        raise SpecError("net-rate", net.rate, "must be between 8k and 1000g bits a second")


def parse_mac(mac: str) -> bytes:
    """Return the six bytes of an Ethernet address. Raises SpecError."""
    try:
        raw = bytes.fromhex(mac.replace(":", ""))
    except ValueError:
        raw = b""
    if len(raw) != 6 or mac.count(":") != 5 or raw[0] & 1 or not any(raw):
        raise SpecError("mac-address", mac, "not the address of one interface", "e.g. 02:00:00:00:00:01; the first byte is even")
    return raw


def check_name(name: str) -> str:
    """Return the name of a network if it can be one. Raises SpecError."""
    if not name or not is_name(name) or len(name) > 64 or name in ("none", "host", "bridge", "container"):
        raise SpecError("network", name, "not the name of a network", "none, host, pybox, or a name of `pybox network ls`")
    return name


def parse_rate(field: str, word: str | None) -> int | None:
    """Return bits a second of ``10m``, ``10mbit``, ``1g``, ``500k``. Raises SpecError."""
    if word is None:
        return None
    plain = word.lower().removesuffix("bit").removesuffix("bps")
    factor = {"k": 1000, "m": 1_000_000, "g": 1_000_000_000}.get(plain[-1:], 0)
    digits = plain[:-1] if factor else plain
    whole, _, rest = digits.partition(".")
    if not ((whole + rest).isascii() and (whole + rest).isdigit() and len(digits) <= 15):
        raise SpecError(field, word, "not a number of bits a second", "10m, 500k or 1g")
    return round(float(digits) * (factor or 1))
