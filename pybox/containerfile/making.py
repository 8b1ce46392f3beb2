"""Making layers: RUN, COPY, ADD, and the directory of a WORKDIR. Each first says its key, and makes the layer only when asked to."""

from __future__ import annotations

import json
import os
import tarfile
from contextlib import ExitStack, contextmanager
from stat import S_ISDIR

from pybox import users
from pybox.containerfile import cache, checking, running, settings, sources
from pybox.containerfile.errors import RunFailed
from pybox.containerfile.landing import Item, Landing, Wish, destination
from pybox.containerfile.running import Command, Output
from pybox.containerfile.sources import Pick, Root, Stream, resolved
from pybox.containerfile.unpacking import Archive, archive
from pybox.containerfile.words import WordError, as_json, expand_document
from pybox.errors import PyboxError, SpecError
from pybox.files import views
from pybox.image import layer
from pybox.image.model import Image
from pybox.image.pack import described
from pybox.image.stream import Chunks
from pybox.kernel.inputs import Inputs
from pybox.record import Record
from pybox.spec import Spec
from pybox.times import dated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pybox.containerfile.ignore import Ignore
    from pybox.containerfile.reading import Instruction
    from pybox.containerfile.settings import Wording
    from pybox.containerfile.state import State
    from pybox.files.worker import Notes
    from pybox.runtime import Runtime


class Task(Record):
    """A layer that can be made: ``make(folder)`` does it and returns its diffID."""

    key: str
    said: str  # for the history
    make: Callable[[str], str]
    close: Callable[[], None] = lambda: None


class Maker:
    """Knows what all steps of a build have in common."""

    def __init__(
        self,
        file: str,
        runtime: Runtime,
        context: int,
        ignore: Ignore,
        run: Spec,
        work: str,
        latest: int | None,
        line: Callable[[bytes], object],
        notes: Notes,
    ) -> None:
        self._file, self._runtime, self._run, self._work, self._latest, self._notes = file, runtime, run, work, latest, notes
        self._context = Root(context, ignore=ignore)
        self._line = line

    # RUN

    def run(self, state: State, instruction: Instruction, proxies: tuple[tuple[str, str], ...]) -> Task:
        """Return the task of a RUN."""
        script = ""
        words = as_json(instruction.text)
        if words is None:
            text, script = _script(instruction)
            words = [running.SCRIPT] if script else [*settings.shell(state.config), text]
        if not state.diff_ids:
            raise WordError("there is nothing to run in scratch: COPY something into it first")
        env = {**dict(proxies), **state.values()}
        network = dict(instruction.flags).get("network", "default")
        command = Command(
            tuple(words),
            tuple(env.items()),
            state.text("User"),
            state.text("WorkingDir"),
            "none" if network == "none" else "",
            script,
        )
        # an ARG counts from the first RUN after it, as in docker; a proxy is none of the result's business
        key = cache.key(state.key, "RUN", json.dumps([words, sorted(state.args), network, script]))
        known = settings.environment(state.config)
        args = [f"{name}={value}" for name, value in state.args if name not in known]
        said = " ".join(("RUN", *((f"|{len(args)}", *args) if args else ()), *words))

        def make(folder: str) -> str:
            output = Output(self._line)
            result, made = running.run(self._runtime, self._run, state.image, command, folder, self._latest, output, self._notes)
            if made is None:
                how = "" if result.reason == "exit" else f" ({result.reason})"
                reason = f"RUN {' '.join(instruction.text.split())}: exit status {result.exit_code}{how}"
                raise RunFailed(self._file, instruction.line, reason, result.exit_code, output.text())
            return made.diff_id

        return Task(key, said, make)

    # COPY, ADD

    def copy(self, state: State, wording: Wording, tree: Image | None) -> Task:
        """Return the task of a COPY or ADD; ``tree`` is what --from names."""
        instruction, flags = wording.instruction, dict(wording.instruction.flags)
        given, wanted = ([wording.expand(each) for each in part] for part in _listed(instruction, wording.escape))
        for path in given:
            checking.no_way_out(path)
        if not wanted[0] or not all(given):
            raise WordError("a path is empty")
        wish = Wish(
            owner=_owner(state.image, wording.expand(flags["chown"])) if "chown" in flags else None,
            mode=checking.mode(wording.expand(flags["chmod"])) if "chmod" in flags else None,
            now=dated(self._latest),
            latest=self._latest,
        )
        inline = [
            (each.name, expand_document(each.text, wording.values, wording.escape) if each.expand else each.text)
            for each in instruction.heredocs
        ]
        held = ExitStack()
        try:
            root = self._context if tree is None else held.enter_context(self._seen(tree))
            chosen = sources.picks(root, given)
            archives = {}
            if instruction.word == "ADD":
                archives = _archives(root, chosen, held)
            plain = [pick for pick in chosen if pick not in archives]
            digest = sources.digest(root, plain)
        except BaseException:
            held.close()
            raise
        facts = [
            wanted[0], wish.owner, wish.mode, inline, [[os.fsdecode(pick.name), pick.directory] for pick in plain], digest,
            [found.digest for found in archives.values()],
        ]  # fmt: skip
        key = cache.key(state.key, instruction.word, json.dumps(facts))
        options = "".join(f"--{name}={value} " for name, value in instruction.flags if name != "link")
        said = f"{instruction.word} {options}{' '.join((*given, *(f'<<{name}' for name, _ in inline), *wanted))}"

        def make(folder: str) -> str:
            with self._seen(state.image) as there:
                names, directory = destination(
                    there.fd, state.text("WorkingDir") or "/", wanted[0], plain, len(inline) + len(archives)
                )
                landing = Landing(there.fd, wish, _top(state.image))
                try:
                    with Stream(root, plain, self._notes) as stream:
                        items = _items(stream, plain, names, directory, _files(inline, wish.now), archives.values())
                        made = layer.unpack(Chunks(landing.layer(items)), folder)
                    if stream.digest() != digest:
                        raise PyboxError("what is copied changed while it was read", "try again")
                finally:
                    landing.close()
            return made.diff_id

        return Task(key, said, make, held.close)

    # WORKDIR

    def workdir(self, state: State) -> Task | None:
        """Return the task of making the working directory, None where the image has it. Raises WordError."""
        path = state.text("WorkingDir")
        with self._seen(state.image) as there:
            try:
                names, status = resolved(there.fd, path)
            except OSError as error:
                raise WordError(f"{path}: {error.strerror}") from None
        if status is not None:
            if not S_ISDIR(status.st_mode):
                raise WordError(f"{path}: the image has a file there")
            return None
        now = dated(self._latest)

        def make(folder: str) -> str:
            info = described("", tarfile.DIRTYPE, 0o755, 0)
            info.mtime = now
            with self._seen(state.image) as there:
                landing = Landing(there.fd, Wish(now=now, latest=self._latest), _top(state.image))
                try:
                    return layer.unpack(Chunks(landing.layer((Item(tuple(names), info),))), folder).diff_id
                finally:
                    landing.close()

        return Task(cache.key(state.key, "WORKDIR", path), f"WORKDIR {path}", make)

    @contextmanager
    def _seen(self, image: Image) -> Iterator[Root]:
        """Hold the tree of an image open."""
        if not image.layers:
            empty = f"{self._work}/empty"
            os.makedirs(empty, 0o755, exist_ok=True)
            fd = os.open(empty, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield Root(fd, keep=True)
            finally:
                os.close(fd)
            return
        given = Inputs(spec=Spec(image="none", uts="host"), facts=self._runtime.facts, image=image, dirs=self._runtime.dirs)
        held = views.image(given)
        try:
            yield Root(held.root, held.userns, keep=True)
        finally:
            held.close()


def _script(instruction: Instruction) -> tuple[str, str]:
    """Return (text for the shell, program): a lone here-document is one of the two itself, any other the shell reads."""
    if not instruction.heredocs:
        return instruction.text, ""
    first = instruction.heredocs[0]
    if len(instruction.heredocs) == 1 and len(instruction.text.split()) == 1:
        return ("", first.text) if first.text.startswith("#!") else (first.text, "")
    return instruction.text + "\n" + "".join(f"{each.text}{each.name}\n" for each in instruction.heredocs), ""


def _listed(instruction: Instruction, escape: str) -> tuple[list[str], list[str]]:
    given, wanted = checking.sources(instruction, escape)
    return given, [wanted]


def _owner(image: Image, text: str) -> tuple[int, int]:
    """Return the ids that --chown means in an image; as docker, a number alone is user and group. Raises WordError."""
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise WordError(f"--chown={text}: must be USER[:GROUP]")
    if user.isascii() and user.isdigit() and not colon:
        text = f"{user}:{user}"
    try:
        account = users.find(image, text)
    except SpecError as error:
        raise WordError(f"--chown={text}: {error.reason}") from None
    return account.uid, account.gid


def _archives(root: Root, chosen: list[Pick], held: ExitStack) -> dict[Pick, Archive]:
    found = {}
    for pick in chosen:
        if pick.directory:
            continue
        try:
            fd = sources.open_file(root, pick)
        except OSError as error:
            raise WordError(f"{os.fsdecode(b'/'.join(pick.path))}: {error.strerror or error}") from None
        known = archive(fd, os.fsdecode(pick.name))
        if known is not None:
            held.callback(known.close)
            found[pick] = known
    return found


def _top(image: Image) -> os.stat_result | None:
    """Return what / is in an image: its topmost layer says it, which the stack on view, having one more on top, does not."""
    return os.stat(image.layers[0]) if image.layers else None


def _files(inline: list[tuple[str, str]], now: int) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield (entry, content) of the files that stand in the Containerfile itself."""
    for name, text in inline:
        blob = text.encode("utf-8", "surrogateescape")
        info = described(name, tarfile.REGTYPE, 0o644, len(blob))
        info.mtime = now
        yield info, blob


def _items(
    stream: Stream,
    plain: list[Pick],
    below: tuple[bytes, ...],
    directory: bool,
    inline: Iterable[tuple[tarfile.TarInfo, bytes]],
    archives: Iterable[Archive],
) -> Iterator[Item]:
    """Yield what is copied, each with its place: docker's rules of what a destination means."""

    def at(pick: Pick) -> tuple[bytes, ...]:
        return below if pick.directory or not directory else (*below, pick.name)

    for entry in stream.entries():
        link: tuple[bytes, ...] = ()
        if entry.info.islnk():
            other, names = stream.place(os.fsencode(entry.info.linkname))
            link = (*at(plain[other]), *names)
        pick = plain[entry.pick]
        top = not entry.names and pick.directory
        yield Item((*at(pick), *entry.names), entry.info, stream.content(entry.info), link, top, entry.left_out)
    for info, blob in inline:
        yield Item((*below, os.fsencode(info.name)) if directory else below, info, (blob,))
    for found in archives:
        yield from found.items(below)
