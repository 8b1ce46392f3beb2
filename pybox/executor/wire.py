"""What goes through the channel of a worker: messages on a SOCK_SEQPACKET socket, unix(7).

Each message is at most CHUNK bytes; what is longer follows its head in further messages, which are nothing but bytes. A message
is read by one reader as a whole: so the owner, who keeps the worker's end open too, can take back a call that the worker has not
begun to read, and knows of each call whether it has begun. Everything that comes from the worker may be a lie.
"""

from __future__ import annotations

from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 16  # bytes: three fit into a socket's buffer of Linux's default size
CALL = Struct(
    "=BQIQQ"
)  # kind, number of the call, number of the function, bytes of the function (0: you have it), of the arguments
REPLY = Struct("=BQQ")  # kind, number of the call, bytes of the body
ERROR = Struct("=III")  # bytes of the traceback, of the type's name, of the message; the pickled exception is the rest

ONE, EACH = 1, 2  # kinds of call: fn(*args, **kwargs), or fn for each of a list of args
READY, VALUE, RAISED = 1, 2, 3  # kinds of reply
AGAIN = 4  # one more: it has not got the function, for the call that brought it was taken back while this one was read


class Broken(Exception):
    """The worker does not keep to the agreement."""


def messages(head: bytes, *parts: bytes) -> Iterator[bytes | memoryview]:
    """Yield a head and its body as messages; nothing large is copied."""
    first = bytearray(head)
    for part in parts:
        view = memoryview(part)
        room = 0
        if first:
            room = CHUNK - len(first)
            first += view[:room]
        if len(first) == CHUNK:
            yield bytes(first)
            first = bytearray()
        for at in range(room, len(part), CHUNK):
            yield view[at : at + CHUNK]
    if first:
        yield bytes(first)


class Inbound:
    """Puts replies together again. No memory is set aside for what was only announced."""

    def __init__(self, limit: int) -> None:
        self._limit = limit  # bytes of a body
        self._kind = self._call = self._left = 0
        self._body = bytearray()

    def feed(self, message: bytes) -> tuple[int, int, bytes | bytearray] | None:
        """Take a message; returns (kind, call, body) when a reply is complete. Raises Broken."""
        if self._left:
            if not 0 < len(message) <= self._left:
                raise Broken("a part of a reply has the wrong length")
            self._body += message
            self._left -= len(message)
            if self._left:
                return None
            body, self._body = self._body, bytearray()
            return self._kind, self._call, body
        if len(message) < REPLY.size:
            raise Broken("a reply without a head")
        self._kind, self._call, size = REPLY.unpack_from(message)
        if size > self._limit:
            raise Broken(f"a result of {size} bytes; max_result allows {self._limit}")
        found = message[REPLY.size :]
        self._left = size - len(found)
        if self._left < 0:
            raise Broken("a reply has the wrong length")
        if self._left:
            self._body = bytearray(found)
            return None
        return self._kind, self._call, found


def parse_error(body: bytes | bytearray) -> tuple[str, str, str, bytes]:
    """Return (traceback, name of the type, message, pickled exception or b"") of a RAISED reply. Raises Broken."""
    if len(body) < ERROR.size:
        raise Broken("an exception without a head")
    texts = []
    at = ERROR.size
    for size in ERROR.unpack_from(body):
        texts.append(bytes(body[at : at + size]).decode(errors="replace"))
        at += size
    if at > len(body):
        raise Broken("an exception has the wrong length")
    return texts[0], texts[1], texts[2], bytes(body[at:])
