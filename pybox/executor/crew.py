"""One worker, as it looks from here: a container, a channel, the calls it has been given.

A worker answers its calls one after the other, so the oldest one without an answer is the one that runs. The others wait in the
socket, and can be taken back from there as long as the worker has not read them.
"""

from __future__ import annotations

from collections import deque
from select import EPOLLIN, EPOLLOUT
from socket import AF_UNIX, MSG_DONTWAIT, SOCK_SEQPACKET, socketpair

from pybox.executor import wire
from pybox.executor.calls import Call
from pybox.runtime import Options, Running, Runtime
from pybox.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.result import Result


class Box:
    """A container and the streams of it that we serve."""

    def __init__(self, runtime: Runtime, spec: Spec, options: Options) -> None:
        """Launch it from the calling thread, with which it dies. Raises a PyboxError."""
        self.running = Running(runtime, runtime.ready(spec, options.keep), options)
        assert self.running.streams is not None
        self.streams = self.running.streams
        self.deadline: float | None = None
        self.error: BaseException | None = None  # what its task is to end with, if it is we who ended it
        self.timed_out = False
        self.killed = False

    def kill(self) -> None:
        """End all of its processes; its pidfd tells when that is done."""
        if not self.killed:
            self.killed = True
            self.deadline = None
            self.running.kill()

    def settle(self) -> Result:
        """Reap it and clear up; it has ended."""
        return self.running.settle(self.timed_out)


class Worker(Box):
    """See above."""

    def __init__(self, runtime: Runtime, spec: Spec, options: Options, limit: int) -> None:
        """Launch one. ``limit``: bytes of a result, at most. Raises a PyboxError."""
        self.ours, self.theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        self.calls: deque[Call] = deque()
        self.known: set[int] = set()  # functions it has
        self.hello = self.ready = self.leaving = False
        self.why = ""  # what it did, to be killed for it
        self._inbound = wire.Inbound(limit)
        self._unsent: deque[bytes | memoryview] = deque()
        try:
            self.ours.setblocking(False)
            super().__init__(runtime, spec, options.replace(stdin=self.theirs.fileno()))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the channel."""
        self.ours.close()
        self.theirs.close()

    @property
    def events(self) -> int:
        """What of the channel to wait for."""
        return EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN

    def has_room(self, ahead: int) -> bool:
        """Whether one more call may wait in its socket: behind whole messages only, or they could not be told apart."""
        return len(self.calls) < ahead and not self._unsent and all(call.small for call in self.calls)

    def send(self, parts: list[bytes | memoryview]) -> None:
        """Send messages, now or when there is room. Raises wire.Broken when it does not listen any more."""
        self._unsent.extend(parts)
        self.send_on()

    def send_on(self) -> None:
        """Send what has not been sent. Raises wire.Broken."""
        try:
            while self._unsent:
                self.ours.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:
            raise wire.Broken("it has closed its channel") from None

    def receive(self) -> bytes | None:
        """Return the next message, None when there is none. Raises wire.Broken."""
        try:
            message = self.ours.recv(wire.CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            message = b""
        if not message:
            raise wire.Broken("it has closed its channel")
        return message

    def reply(self, message: bytes) -> tuple[int, int, bytes | bytearray] | None:
        """Return (kind, call, body) when a message completes a reply. Raises wire.Broken."""
        return self._inbound.feed(message)

    def take_back(self) -> list[Call]:
        """Return the calls that it has not begun, in their order: they were not read, and now can't be."""
        if not self.calls or not self.calls[0].small:
            return []
        unread = {wire.CALL.unpack_from(message)[1] for message in self._unsent}
        self._unsent.clear()
        try:
            while message := self.theirs.recv(wire.CHUNK, MSG_DONTWAIT):
                unread.add(wire.CALL.unpack_from(message)[1])
        except OSError:
            pass
        taken = [call for call in self.calls if call.number in unread]
        for call in taken:
            self.calls.remove(call)
            self.known.discard(call.taught)
            call.where = None
        return taken

    def dismiss(self) -> None:
        """Hang up: it ends by itself, as a Python program does."""
        from socket import SHUT_WR

        try:
            self.ours.shutdown(SHUT_WR)
        except OSError:
            pass
