"""Interfaces, addresses and routes: the few messages to the kernel that a container's wiring needs. rtnetlink(7)

pyroute2 speaks all of rtnetlink and costs 120-170 ms of import, twice what a whole `pybox run` takes (bench/network.py); these are
the half dozen messages of it that stand on the way of a run. What stands beside it (rate.py) uses pyroute2.
"""

from __future__ import annotations

import _socket
from _struct import pack, unpack_from

from pybox.record import Record

_CREATE, _EXCL, _ACK, _REQUEST = 0x400, 0x200, 4, 1  # netlink(7)
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE = 16, 17, 18, 20, 24
_IFF_UP = 1
_NLA_NESTED = 0x8000
_NODAD = 0x02  # the address is ours to give: nobody is asked whether it is taken, and it can be used at once


class Link(Record):
    """An interface as the kernel has it."""

    index: int
    up: bool


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute: length, type, value, padding."""
    return pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def _name(name: str) -> bytes:
    return attribute(3, name.encode() + b"\0")  # IFLA_IFNAME


def _link_body(index: int = 0, up: bool = False) -> bytes:
    return pack("=BxHiII", 0, 0, index, _IFF_UP if up else 0, _IFF_UP if up else 0)


class Message(Record):
    """One request."""

    kind: int
    flags: int
    body: bytes


def bridge(name: str, mac: bytes) -> Message:
    """Make a bridge, down: it is put up last, so one that is up has all it needs."""
    info = attribute(18, attribute(1, b"bridge\0"))  # IFLA_LINKINFO, IFLA_INFO_KIND
    return Message(_NEWLINK, _CREATE | _EXCL, _link_body() + _name(name) + attribute(1, mac) + info)


def veth(name: str, master: int, mac: bytes, peer: str, netns: int, mtu: int = 0) -> Message:
    """Make a pair of interfaces: ours is up and on the bridge, the other is born inside the network namespace, down.

    Born there, for moving it there afterwards waits for a grace period of RCU: 24 ms (facts: shared/facts/costs.md).
    """
    size = attribute(4, pack("=I", mtu)) if mtu else b""  # IFLA_MTU
    other = _link_body() + _name(peer) + attribute(1, mac) + attribute(28, pack("=i", netns)) + size
    data = attribute(2 | _NLA_NESTED, attribute(1, other))  # IFLA_INFO_DATA, VETH_INFO_PEER
    info = attribute(18 | _NLA_NESTED, attribute(1, b"veth\0") + data)
    body = _link_body(up=True) + _name(name) + attribute(10, pack("=I", master)) + size + info  # IFLA_MASTER
    return Message(_NEWLINK, _CREATE | _EXCL, body)


def put_up(index: int) -> Message:
    """Put an interface up."""
    return Message(_NEWLINK, 0, _link_body(index, up=True))


def remove(name: str) -> Message:
    """Remove an interface; of a pair both."""
    return Message(_DELLINK, 0, _link_body() + _name(name))


def address(index: int, value: bytes, prefix: int) -> Message:
    """Give an interface an address of 4 or 16 bytes."""
    family = _socket.AF_INET if len(value) == 4 else _socket.AF_INET6
    body = pack("=BBBBI", family, prefix, _NODAD if len(value) == 16 else 0, 0, index)
    local = attribute(2, value) + attribute(1, value)  # IFA_LOCAL, IFA_ADDRESS
    if len(value) == 4 and prefix < 31:
        local += attribute(4, _broadcast(value, prefix))  # IFA_BROADCAST
    return Message(_NEWADDR, _CREATE | _EXCL, body + local)


def _broadcast(value: bytes, prefix: int) -> bytes:
    return (int.from_bytes(value) | ((1 << (32 - prefix)) - 1)).to_bytes(4)


def default_route(index: int, gateway: bytes) -> Message:
    """Send what is for elsewhere to a gateway."""
    family = _socket.AF_INET if len(gateway) == 4 else _socket.AF_INET6
    body = pack("=BBBBBBBBI", family, 0, 0, 0, 254, 4, 0, 1, 0)  # main table, RTPROT_STATIC, universe, unicast
    return Message(_NEWROUTE, _CREATE | _EXCL, body + attribute(5, gateway) + attribute(4, pack("=I", index)))


def local_route(index: int, value: bytes) -> Message:
    """Take what comes in at an interface for an IPv6 address as the host's own. Ranks behind the address's own route."""
    body = pack("=BBBBBBBBI", _socket.AF_INET6, 128, 0, 0, 255, 4, 254, 2, 0)  # table local, RTPROT_STATIC, host, local
    ranks = attribute(6, pack("=I", 1024 + index))  # RTA_PRIORITY: two of the same would be one
    return Message(_NEWROUTE, _CREATE | _EXCL, body + attribute(1, value) + attribute(4, pack("=I", index)) + ranks)


class Kernel:
    """A netlink socket: requests go out together and are answered one by one. It belongs to the namespace it was opened in."""

    def __init__(self, fd: int = -1, protocol: int = 0) -> None:
        kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
        self._socket = _socket.socket(_socket.AF_NETLINK, kind, protocol, fd if fd >= 0 else None)
        self._socket.settimeout(None)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, *messages: Message) -> None:
        """Have them done, in order. Raises the OSError of the first that was refused; those after it were tried, too."""
        packed = b"".join(_packed(message, number, _ACK) for number, message in enumerate(messages, 1))
        self._socket.sendto(packed, (0, 0))
        failed, answers = 0, 0
        while answers < len(messages):
            for kind, body in _messages(self._socket.recv(1 << 16)):
                if kind == 2:  # NLMSG_ERROR, which with 0 is the acknowledgement
                    answers += 1
                    failed = failed or -unpack_from("=i", body)[0]
        if failed:
            raise _error(failed)

    def ask_all(self, begin: Message, messages: list[Message], end: Message) -> None:
        """Have all of them done, or none: a batch of nfnetlink. Raises OSError."""
        packed = _packed(begin, 0, 0) + b"".join(_packed(one, number, _ACK) for number, one in enumerate(messages, 1))
        self._socket.sendto(packed + _packed(end, 0, 0), (0, 0))
        answers, failed = 0, 0
        while answers < len(messages) and not failed:
            for kind, body in _messages(self._socket.recv(1 << 16)):
                if kind == 2:
                    answers += 1
                    failed = failed or -unpack_from("=i", body)[0]
        if failed:
            raise _error(failed)

    def link(self, name: str) -> Link | None:
        """Return an interface, None if there is none of that name."""
        body = self.one(Message(_GETLINK, 0, _link_body() + _name(name)))
        if body is None:
            return None
        index, flags = unpack_from("=iI", body, 4)
        return Link(index, bool(flags & _IFF_UP))

    def one(self, message: Message) -> bytes | None:
        """Return the body of the answer to a question; None when there is no such thing. Raises OSError."""
        self._socket.sendto(_packed(message, 1, 0), (0, 0))
        for kind, body in _messages(self._socket.recv(1 << 16)):
            if kind != 2:
                return body
            failed = -unpack_from("=i", body)[0]
            if failed not in (2, 19):  # ENOENT, ENODEV
                raise _error(failed)
        return None


def _packed(message: Message, number: int, flags: int) -> bytes:
    length = 16 + len(message.body)
    return pack("=IHHII", length, message.kind, _REQUEST | flags | message.flags, number, 0) + message.body


def _messages(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        length, kind = unpack_from("=IH", data, at)
        found.append((kind, data[at + 16 : at + length]))
        at += (length + 3) & ~3
    return found


def _error(number: int) -> OSError:
    from os import strerror

    return OSError(number, strerror(number))
