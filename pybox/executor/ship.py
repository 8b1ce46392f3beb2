"""What a worker is sent before the first call: the program (inside.py) and the caller's own cloudpickle.

Both go as compiled code through the channel, so nothing has to be mounted or installed in the image, and what pickles there is
what unpickles here. Compiled code is of one minor version of Python, and so are the functions that cloudpickle writes: the first
word of a worker is its version.
"""

from __future__ import annotations

import marshal
import os
import sys

from pybox.errors import PyboxError
from pybox.executor import wire
from pybox.executor.errors import WorkerFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

HELLO = 256  # bytes, at most

# Runs on any Python 3. Fd 0 is the channel; the command gets /dev/null instead, and a number that nobody takes by accident.
BOOT = f"""
import os, sys, marshal
fd = os.dup(0)
null = os.open(os.devnull, os.O_RDONLY)
os.dup2(null, 0)
os.close(null)
os.write(fd, ("%s %s" % (sys.implementation.cache_tag, sys.version.split()[0])).encode())
size = int(os.read(fd, 64) or sys.exit())
got = b""
while len(got) < size:
    got += os.read(fd, {wire.CHUNK}) or sys.exit()
code, settings = marshal.loads(got)
room = {{"__name__": "pybox_worker"}}
exec(code, room)
del got, code, size, null
room["main"](fd, settings)
"""


def cloudpickle() -> ModuleType:
    """Return the package. Raises PyboxError when it is not there."""
    try:
        import cloudpickle as found  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise PyboxError("pybox.Executor needs the Python package cloudpickle", "pip install cloudpickle") from None
    module: ModuleType = found
    return module


def program(results: str, preload: tuple[str, ...], path: list[str] | None) -> bytes:
    """Return what a worker's BOOT waits for. ``path``: its sys.path, None leaves the image's."""
    settings = {
        "chunk": wire.CHUNK,
        "call": wire.CALL.format,
        "reply": wire.REPLY.format,
        "error": wire.ERROR.format,
        "each": wire.EACH,
        "ready": wire.READY,
        "value": wire.VALUE,
        "raised": wire.RAISED,
        "again": wire.AGAIN,
        "results": results,
        "preload": preload,
        "path": path,
        "modules": _modules(os.path.dirname(os.path.abspath(str(cloudpickle().__file__)))),
    }
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside.py"), "rb") as file:
        return marshal.dumps((compile(file.read(), "<pybox worker>", "exec"), settings))


def _modules(folder: str) -> dict[str, CodeType]:
    found = {}
    package = os.path.basename(folder)
    for entry in sorted(os.listdir(folder)):
        name, end = os.path.splitext(entry)
        if end == ".py":
            with open(os.path.join(folder, entry), "rb") as file:
                code = compile(file.read(), f"<{package}/{entry}>", "exec", dont_inherit=True)
            found[package if name == "__init__" else f"{package}.{name}"] = code
    return found


def check_hello(image: str, message: bytes) -> None:
    """Refuse a Python that can't load what we write. Raises WorkerFailed."""
    words = message[:HELLO].decode("ascii", errors="replace").split()
    tag, version = words if len(words) == 2 else ("", "")
    if tag != sys.implementation.cache_tag:
        own = sys.version.split()[0]
        raise WorkerFailed(
            f"{image}: its Python is {version or tag!a}, this one is {own}: functions can't be sent from one to the other",
            f"an image with Python {sys.version_info[0]}.{sys.version_info[1]}, or python= names another one in the image",
        )
