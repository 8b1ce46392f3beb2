"""The program of a worker. It runs in the container, on the Python that is there, and has nothing of pybox but what it is sent.

So: the standard library only, and of that what is quickly imported. ``settings`` are plain values, see ship.py; what the messages
mean is said in wire.py.
"""

from __future__ import annotations

import os
import sys
from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType
    from typing import Any


class Shipped:
    """Finds the modules that came through the channel, before those of the image."""

    def __init__(self, modules: dict[str, CodeType]) -> None:
        self._modules = modules

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """Return the spec of a shipped module; importlib.abc.MetaPathFinder."""
        kind: Any = type(sys.__spec__)
        return kind(name, self, is_package="." not in name) if name in self._modules else None

    def create_module(self, spec: object) -> None:
        """Have an ordinary module made; importlib.abc.Loader."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill it."""
        exec(self._modules[module.__name__], module.__dict__)


class Channel:
    """The worker's end of the socket."""

    def __init__(self, fd: int, settings: dict[str, Any]) -> None:
        self._fd = fd
        self._chunk: int = settings["chunk"]
        self._call = Struct(settings["call"])
        self._reply = Struct(settings["reply"])
        self._error = Struct(settings["error"])
        self._buffer = bytearray(self._chunk)

    def receive(self) -> tuple[int, int, int, memoryview, memoryview] | None:
        """Return the next call: kind, number, number of the function, function, arguments. None: there will be none."""
        got = os.readv(self._fd, [self._buffer])
        if not got:
            return None
        kind, call, function, size, more = self._call.unpack_from(self._buffer)
        total = size + more
        data = memoryview(self._buffer)[self._call.size : got]
        at = len(data)
        if at < total:
            whole = memoryview(bytearray(total))
            whole[:at] = data
            data = whole
            while at < total:
                got = os.readv(self._fd, [data[at : at + self._chunk]])
                if not got:
                    return None
                at += got
        return kind, call, function, data[:size], data[size:]

    def reply(self, kind: int, call: int, body: bytes) -> None:
        """Send a reply."""
        head = self._reply.pack(kind, call, len(body))
        room = self._chunk - len(head)
        if len(body) <= room:
            os.write(self._fd, head + body)
            return
        view = memoryview(body)
        os.write(self._fd, head + bytes(view[:room]))
        for at in range(room, len(body), self._chunk):
            os.write(self._fd, view[at : at + self._chunk])

    def reply_error(self, kind: int, call: int, error: BaseException, encode: Callable[[object], bytes] | None) -> None:
        """Send an exception: as text, and as a pickle where that is possible."""
        import traceback

        # the first frame is ours
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next))
        try:
            message = str(error)
        except Exception:
            message = ""
        pickled = b""
        if encode is not None:
            try:
                pickled = encode(error)
            except Exception:
                pass
        parts = [text.encode(errors="replace") for text in (trace, type(error).__qualname__, message)]
        self.reply(kind, call, self._error.pack(*map(len, parts)) + b"".join(parts) + pickled)


def encoder(results: str) -> tuple[Callable[[object], bytes], Callable[[object], bytes] | None]:
    """Return what makes bytes of a result, and of an exception."""
    if results == "json":
        import json

        return lambda value: json.dumps(value).encode(), None
    from _pickle import dumps

    import cloudpickle  # type: ignore[import-untyped, unused-ignore]

    def encode(value: object) -> bytes:
        try:
            return dumps(value, 5)
        except Exception:  # of a class or function that has no name here
            made: bytes = cloudpickle.dumps(value, 5)
            return made

    return encode, encode


def main(fd: int, settings: dict[str, Any]) -> None:
    """Answer calls until the other end hangs up."""
    import _signal
    from _pickle import loads

    _signal.signal(2, lambda *_: None)  # Ctrl-C is the caller's; a handler, for SIG_IGN would be inherited by programs
    sys.meta_path.insert(0, Shipped(settings["modules"]))  # type: ignore[arg-type]
    if settings["path"] is not None:
        sys.path[:] = settings["path"]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    channel = Channel(fd, settings)
    me = os.getpid()
    ready, value_kind, raised, each = settings["ready"], settings["value"], settings["raised"], settings["each"]
    try:
        import cloudpickle  # noqa: F401 - now, and not within the first call

        encode, encode_error = encoder(settings["results"])
        for name in settings["preload"]:
            __import__(name)
    except BaseException as error:
        channel.reply_error(raised, 0, error, None)
        return
    channel.reply(ready, 0, b"")
    functions: dict[int, Callable[..., object]] = {}
    kept: dict[int, bytes] = {}
    while (got := channel.receive()) is not None:
        kind, call, number, blob, data = got
        if not blob and number not in kept:
            channel.reply(settings["again"], call, b"")
            continue
        try:
            function = None if blob else functions.get(number)
            if function is None:
                raw = bytes(blob) or kept[number]
                if number:
                    kept[number] = raw  # first: the next one to call it must find the same fault
                function = loads(raw)
                if number:
                    functions[number] = function
            args, kwargs = loads(data)
            got = blob = data = raw = None  # type: ignore[assignment]  # may be large
            value = [function(*each_args) for each_args in args] if kind == each else function(*args, **kwargs)
            body = encode(value)
        except BaseException as error:
            if os.getpid() != me:
                os._exit(1)
            flush()
            channel.reply_error(raised, call, error, encode_error)
        else:
            if os.getpid() != me:  # a fork of the call has come back from it: the answer is not its to give
                os._exit(0)
            flush()
            channel.reply(value_kind, call, body)
        got = blob = data = raw = function = args = kwargs = value = body = None  # type: ignore[assignment]


def flush() -> None:
    """Write out what the call has printed, before anybody hears that it has ended."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed by the call, or nobody reads it
            pass
