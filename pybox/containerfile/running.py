"""RUN: a container like any other, and what it left behind becomes a layer.

The container is the run's own, journalled like every run: whoever kills pybox, it dies, and the next pybox undoes it. Its writable
layer is looked at in the moment between its end and its undoing.
"""

from __future__ import annotations

import os

from pybox.containerfile.landing import as_it_is, ending, rewritten
from pybox.files import changes as differences
from pybox.files import reach
from pybox.files.commit import layer_tar
from pybox.files.worker import Notes, Reader, Worker, write
from pybox.image import layer
from pybox.image import tape as tapes
from pybox.image.pack import END
from pybox.image.stream import CHUNK, Chunks
from pybox.image.tape import Tape
from pybox.record import Record
from pybox.runtime import Options, Runtime
from pybox.spec import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable, Iterator

    from pybox.image.layerfile import Layer
    from pybox.image.model import Image
    from pybox.image.stream import Source
    from pybox.result import Result
    from pybox.spec import Spec

SCRIPT = "/dev/pipes/script"
_TOP = 0o755, 0, 0  # mode and owner of the root of a new writable layer, see steps/hostside.py
_SHOWN = 256 << 10  # bytes of output that a failure shows: the end of it


class Command(Record):
    """What a RUN is to do, in words."""

    words: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    user: str
    workdir: str
    network: str = ""  # "" for the build's
    script: str = ""  # what is shown as the file SCRIPT


class Output:
    """The end of what a RUN wrote, both streams as they came; each line is passed on to who wants it."""

    def __init__(self, line: Callable[[bytes], object]) -> None:
        self._line, self._kept, self._size = line, list[bytes](), 0

    def __call__(self, line: bytes) -> None:
        self._line(line)
        self._kept.append(line)
        self._size += len(line)
        while self._size > _SHOWN and len(self._kept) > 1:
            self._size -= len(self._kept.pop(0))

    def text(self) -> bytes:
        """Return it."""
        return b"".join(self._kept)[-_SHOWN:]


def run(
    runtime: Runtime, spec: Spec, image: Image, command: Command, folder: str, latest: int | None, output: Output, notes: Notes
) -> tuple[Result, Layer | None]:
    """Run a command on top of an image of the store; returns how it ended and, where that was well, the layer in ``folder``.

    ``spec`` says what holds for every RUN. Raises PyboxError when it can't be started; then nothing of it is left.
    """
    asked = spec.replace(
        image=image.id,
        entrypoint=command.words[:1],
        args=command.words[1:],
        env=command.env,
        user=command.user,
        workdir=command.workdir,
        upper="disk",
        **({"network": command.network} if command.network else {}),
    )
    if command.script:
        with open(f"{folder}.script", "w", encoding="utf-8", opener=_program) as file:
            file.write(command.script)
        asked = asked.replace(mounts=(*asked.mounts, Mount(SCRIPT, f"{folder}.script", read_only=True)))
    made: list[Layer] = []

    def ended(result: Result) -> None:
        if result.ok:
            made.append(_left_behind(runtime, result.id, image, folder, latest, notes))

    options = Options(stdin=-3, stdout=output, stderr=output, keep_upper=True, ended=ended)
    result = runtime.run(asked, options)
    return result, made[0] if made else None


def _program(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_EXCL, 0o755)
    os.chmod(fd, 0o755)  # whatever the umask: who runs it need not be root
    return fd


def _left_behind(runtime: Runtime, identity: str, image: Image, folder: str, latest: int | None, notes: Notes) -> Layer:
    with reach.just_ended(runtime.dirs, identity, image) as found:
        rows = differences.changed(found)

        def send(fd: int, inner: Notes) -> None:
            write(fd, layer_tar(found.root, rows, inner))

        with Worker(found.userns, send, sends=True, notes=notes) as fd:
            source, top = Reader(fd), as_it_is(os.stat(image.layers[0]))
            right = latest is None and (top.mode, top.uid, top.gid) == _TOP
            return layer.unpack(source if right else Chunks(_corrected(source, latest, top)), folder)


def _corrected(source: Source, latest: int | None, top: tarfile.TarInfo) -> Iterator[bytes]:
    """Yield a tar again, nothing in it dated later than ``latest``; and / as in the image, where nobody has changed it.

    The writable layer was made for all images alike, and its own root hides the image's (steps/hostside.py).
    """
    tape = Tape(source, hashed=False)
    for info in tapes.entries(tape):
        if info.name == "." and (info.mode, info.uid, info.gid) == _TOP:
            info.mode, info.uid, info.gid = top.mode, top.uid, top.gid
        yield rewritten(info, tapes.raw(info.name).rstrip(b"/"), latest)
        yield from tapes.content(tape, info)
        yield ending(info)
    while source.read(CHUNK):  # the writer must not think that we have died
        pass
    yield END
