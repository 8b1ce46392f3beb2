"""Run in a container on a network: says it is somebody else, in all ways that there are. Then says "end", as itself, to the host.

    python3 hostile.py OWN4 GATEWAY4 GATEWAY6 VICTIM4 VICTIM6 [raw]

The host listens on UDP port 5353; of what is sent there only what it says as itself may arrive. ``raw``: with frames of its own making.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

PORT = 5353
IPV6_FREEBIND = 78
OWN4, GATEWAY4, GATEWAY6, VICTIM4, VICTIM6 = sys.argv[1:6]


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def ip4(source: str, target: str, payload: bytes, more: int = 0) -> bytes:
    body = struct.pack(">HHHH", PORT, PORT, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, more, 64, 17, 0) + packed(source) + packed(target)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


def ip6(source: str, target: str, protocol: int, body: bytes, at: int) -> bytes:
    """``at``: where in the body its checksum is."""
    pseudo = packed(source) + packed(target) + struct.pack(">II", len(body), protocol)
    body = body[:at] + struct.pack(">H", checksum(pseudo + body)) + body[at + 2 :]
    return struct.pack(">IHBB", 6 << 28, len(body), protocol, 255) + packed(source) + packed(target) + body


def udp6(source: str, target: str, payload: bytes) -> bytes:
    return ip6(source, target, 17, struct.pack(">HHHH", PORT, PORT, 8 + len(payload), 0) + payload, 6)


def frames(own: bytes, gateway: bytes) -> list[bytes]:
    """Return what a container should not get through."""
    everybody, local = b"\xff" * 6, "fe80::" + "bad"
    arp = struct.pack(">HHBBH", 1, 0x800, 6, 4, 2) + own + packed(GATEWAY4) + everybody + packed(VICTIM4)
    router = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\1\1" + own
    claim = struct.pack(">BBHI", 136, 0, 0, 0x20000000) + packed(GATEWAY6) + b"\2\1" + own
    spoofed = ip4(VICTIM4, GATEWAY4, b"spoofed")
    loopback = ip4(OWN4, "127.0.0.1", b"to the loopback")
    return [
        everybody + own + b"\x08\x06" + arp,
        everybody + own + b"\x86\xdd" + ip6(local, "ff02::1", 58, router, 2),
        everybody + own + b"\x86\xdd" + ip6(GATEWAY6, "ff02::1", 58, claim, 2),
        gateway + own + b"\x08\x00" + spoofed,
        gateway + own + b"\x08\x00" + ip4(VICTIM4, GATEWAY4, b"a fragment", 0x2000),
        gateway + own + b"\x81\x00\x00\x00\x08\x00" + spoofed,  # priority tag, which a host takes off
        gateway + b"\2\0\0\0\0\x66" + b"\x08\x00" + ip4(OWN4, GATEWAY4, b"from another interface"),
        gateway + own + b"\x86\xdd" + udp6(VICTIM6, GATEWAY6, b"spoofed"),
        gateway + own + b"\x86\xdd" + udp6(local, GATEWAY6, b"from a made-up link-local address"),
        gateway + own + b"\x08\x00" + loopback,
    ]


def neighbour(address: str) -> bytes:
    for line in Path("/proc/net/arp").read_text().splitlines():
        words = line.split()
        if words[0] == address:
            return bytes.fromhex(words[3].replace(":", ""))
    raise SystemExit(f"no {address} in /proc/net/arp")


def say(text: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as place:
        place.sendto(text, (GATEWAY4, PORT))


say(b"hello")
with socket.socket(
    socket.AF_INET6, socket.SOCK_DGRAM
) as place:  # and where the gateway is: else what is spoofed would never leave
    place.sendto(b"hello, too", (GATEWAY6, PORT))
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as place:  # this takes no right at all
    place.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    place.bind((VICTIM6, PORT))
    place.sendto(b"as another", (GATEWAY6, PORT))
try:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
except PermissionError:
    assert "raw" not in sys.argv
else:
    assert "raw" in sys.argv
    raw.bind(("eth0", 0))
    for frame in frames(
        bytes.fromhex(Path("/sys/class/net/eth0/address").read_text().strip().replace(":", "")), neighbour(GATEWAY4)
    ):
        raw.send(frame)
    os.system(f"busybox ip address add {VICTIM4}/20 dev eth0; busybox arping -q -A -c 1 -I eth0 {VICTIM4}")
say(b"end")
