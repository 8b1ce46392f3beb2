"""Who may say what on a bridge: a container's frames have its own addresses, or they go nowhere. Elements of sets of firewall.py.

It can't take a neighbour's place, nor the host's, whatever it may do inside: what its interface lets in is compared on the host's
side. Each run needs this, so it speaks to the kernel itself: libnftables costs 10 ms to load.
"""

from __future__ import annotations

from _struct import pack

from pybox.netspec import number, text
from pybox.network import rtnl
from pybox.network.pool import Lease

_BEGIN, _END, _NEW, _GET, _DELETE = 0x10, 0x11, 0xA0C, 0xA0D, 0xA0E  # NFNL_MSG_BATCH_*, NFT_MSG_*SETELEM
_CREATE = 0x400
_NESTED = 0x8000
_BRIDGE = 7  # NFPROTO_BRIDGE


def _elements(one: Lease) -> list[tuple[str, bytes]]:
    """Return (set, key). A field of a key begins at a multiple of four bytes."""
    link = one.link.encode().ljust(16, b"\0")
    who = link + one.ether + bytes(2)
    found = [("links", link), ("who", who + number(one.address).to_bytes(4))]
    if one.address6:
        for address in (one.address6, link_local(one.ether)):
            value = number(address).to_bytes(16)
            found += [("who6", who + value), ("claims", who + value)]
    return found


def link_local(ether: bytes) -> str:
    """Return the address that the kernel gives an interface by itself: EUI-64, RFC 4291."""
    return text(int.from_bytes(b"\xfe\x80" + bytes(6) + bytes((ether[0] ^ 2,)) + ether[1:3] + b"\xff\xfe" + ether[3:]), 6)


def _message(kind: int, name: str, key: bytes) -> rtnl.Message:
    element = rtnl.attribute(1 | _NESTED, rtnl.attribute(1 | _NESTED, rtnl.attribute(1, key)))
    body = rtnl.attribute(1, b"pybox\0") + rtnl.attribute(2, name.encode() + b"\0") + rtnl.attribute(3 | _NESTED, element)
    return rtnl.Message(kind, _CREATE if kind == _NEW else 0, bytes((_BRIDGE, 0, 0, 0)) + body)


def _send(messages: list[rtnl.Message]) -> None:
    """Have them done in one transaction. Raises OSError."""
    batch = pack(">BBH", 0, 0, 10)  # NFNL_SUBSYS_NFTABLES
    with rtnl.Kernel(protocol=12) as kernel:
        kernel.ask_all(rtnl.Message(_BEGIN, 0, batch), messages, rtnl.Message(_END, 0, batch))


def admit(one: Lease) -> None:
    """Let a container's interface take part, with the addresses of its lease. Raises OSError."""
    _send([_message(_NEW, *element) for element in _elements(one)])


def bar(one: Lease) -> None:
    """Let nothing in that comes from a container's interface. Raises OSError."""
    _send([_message(_NEW, *_elements(one)[0])])


def dismiss(one: Lease) -> None:
    """Undo admit; also what was never done, or is undone already. Raises OSError.

    It waits for a grace period of RCU, 4-10 ms, as each transaction does that takes something away; so firewall.py, where it takes
    something away, takes these with it.
    """
    question = _message(_GET, *_elements(one)[0])
    with rtnl.Kernel(protocol=12) as kernel:
        if kernel.one(question) is None:
            return
    try:
        _send([_message(kind, *element) for element in _elements(one) for kind in (_NEW, _DELETE)])
    except FileNotFoundError:  # somebody flushed the rules
        pass


def script(one: Lease) -> str:
    """Return what dismiss does as a script of nft(8)."""
    who = f'"{one.link}" . {one.ether.hex(":")}'
    found = [f'links {{ "{one.link}" }}', f"who {{ {who} . {one.address} }}"]
    if one.address6:
        for address in (one.address6, link_local(one.ether)):
            found += [f"who6 {{ {who} . {address} }}", f"claims {{ {who} . {number(address):#x} }}"]
    return "".join(f"{verb} element bridge pybox {element}\n" for element in found for verb in ("add", "delete"))
