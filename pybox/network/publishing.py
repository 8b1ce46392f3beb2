"""Claiming ports of the host for a container."""

from __future__ import annotations

import _socket

from pybox.errors import StateError
from pybox.netspec import Port
from pybox.network import pool
from pybox.network.networks import LOCALHOST6, answers_at_localhost6
from pybox.network.pool import Claimed

_FREE = range(49152, 65536)  # RFC 6335: dynamic ports
_IN_USE = 98


def claim(state: str, identity: str, ports: tuple[Port, ...], to: str, to6: str) -> list[Claimed]:
    """Claim ports; what is claimed stays so until the verb ``ports`` undoes it. Raises StateError for one that is taken."""
    return [
        _any(state, _claimed(port, identity, to, to6)) if not port.host else _one(state, _claimed(port, identity, to, to6))
        for port in ports
    ]


def _claimed(port: Port, identity: str, to: str, to6: str) -> Claimed:
    if ":" in port.address and not to6:
        raise StateError(f"the port {port.host} can't be published on {port.address}: the network has no IPv6")
    if port.address == "::1" and not answers_at_localhost6():
        raise StateError(
            f"the port {port.host} can't be published on ::1: br_netfilter is in the way", f"127.0.0.1, or {LOCALHOST6}"
        )
    return Claimed(port.protocol, port.address or "0.0.0.0", port.host, identity, to, port.inside, to6)


def _one(state: str, port: Claimed) -> Claimed:
    other = pool.claim(pool.port_path(state, port), port.target())
    if other:
        raise StateError(
            f"the port {port.host}/{port.protocol} is taken by container {other.split(' ')[0]}", "choose another host port"
        )
    refused = _listened(port)
    if refused:
        raise StateError(f"the port {port.host}/{port.protocol} can't be published: {refused}", "choose another host port")
    return port


def _any(state: str, port: Claimed) -> Claimed:
    start = int(port.identity, 16) + port.inside
    for step in range(len(_FREE)):
        one = port.replace(host=_FREE[(start + step) % len(_FREE)])
        if not _listened(one) and not pool.claim(pool.port_path(state, one), one.target()):
            return one
    raise StateError("no port of the host is free")


def _listened(port: Claimed) -> str:
    """Return why a program of the host could not listen there now; "" when it could."""
    kind = _socket.SOCK_STREAM if port.protocol == "tcp" else _socket.SOCK_DGRAM
    place = _socket.socket(_socket.AF_INET6 if ":" in port.address else _socket.AF_INET, kind | _socket.SOCK_CLOEXEC)
    try:
        if port.protocol == "tcp":
            place.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)  # closed connections that linger are nobody's
        place.bind((port.address, port.host))
    except OSError as error:
        return "a program of the host listens there" if error.errno == _IN_USE else f"{port.address}: {error.strerror}"
    finally:
        place.close()
    return ""
