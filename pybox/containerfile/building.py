"""The story of a build: read, check, lay out the stages; then step by step, each what is known already or made anew.

A step that makes files is an image of the store at once, so whatever ends the build, what was made so far is whole, and the next
build goes on from there. The image that was asked for becomes visible last, with its name, all at once.
"""

from __future__ import annotations

import json
import time
from functools import partial

from pybox.containerfile import cache, checking, settings, stages
from pybox.containerfile.errors import BuildError
from pybox.containerfile.ignore import Ignore
from pybox.containerfile.making import Maker, Task
from pybox.containerfile.reading import Containerfile
from pybox.containerfile.settings import Wording
from pybox.containerfile.stages import SCRATCH, Layout, Stage
from pybox.containerfile.state import State
from pybox.containerfile.words import WordError
from pybox.errors import ImageError, PyboxError
from pybox.files.worker import Notes
from pybox.image import changes, lock, store
from pybox.image import config as configs
from pybox.image.changes import Locks, NewImage
from pybox.image.lock import Workspace
from pybox.image.model import Image
from pybox.record import Record
from pybox.runtime import Runtime
from pybox.spec import Spec
from pybox.times import dated, rfc3339, source_date_epoch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from pybox.containerfile.reading import Instruction
    from pybox.fastjson import Json

    class Watch(Protocol):
        """Who is told how far it is."""

        def step(self, number: int, total: int, text: str) -> None:
            """A step begins."""

        def line(self, line: bytes) -> None:
            """A RUN has written a line, to either stream."""

        def done(self, cached: bool, seconds: float) -> None:
            """The step has ended well."""


class Nobody:
    """Who does not want to know."""

    def step(self, number: int, total: int, text: str) -> None:
        """Ignore."""

    def line(self, line: bytes) -> None:
        """Ignore."""

    def done(self, cached: bool, seconds: float) -> None:
        """Ignore."""


class Wanted(Record):
    """What is to be built."""

    file: Containerfile
    context: int  # an open directory
    ignore: Ignore = Ignore()
    names: tuple[str, ...] = ()
    args: tuple[tuple[str, str], ...] = ()
    target: str = ""
    cached: bool = True  # use what was made before
    run: Spec = Spec(image="none")  # what holds for the container of every RUN
    labels: tuple[tuple[str, str], ...] = ()


class Built(Record):
    """What came out."""

    id: str  # "sha256:<hex>"
    names: tuple[str, ...]  # canonical
    steps: int
    cached: int  # of the steps
    notes: tuple[str, ...] = ()  # what was left out, and the like


def build(runtime: Runtime, wanted: Wanted, bring: Callable[[str], Image], watch: Watch | None = None) -> Built:
    """Build an image. ``bring`` returns the image of a name, pulled if need be. Raises PyboxError: BuildError, mostly."""
    names = tuple(map(changes.tag_name, wanted.names))
    checking.check(wanted.file)
    layout = stages.layout(wanted.file, dict(wanted.args), wanted.target)
    runtime.make_directories()
    changes.prepare(runtime.dirs)
    lock.sweep(runtime.dirs.store)
    try:
        with Workspace(runtime.dirs.store) as work:
            return _Build(runtime, wanted, layout, bring, watch or Nobody(), work).run(names)
    except OSError as error:
        raise PyboxError(f"building: {error.filename or ''}{': ' * bool(error.filename)}{error.strerror or error}") from None


class _Build:
    def __init__(
        self, runtime: Runtime, wanted: Wanted, layout: Layout, bring: Callable[[str], Image], watch: Watch, work: str
    ) -> None:
        self._runtime, self._dirs, self._wanted, self._layout = runtime, runtime.dirs, wanted, layout
        self._bring, self._watch = bring, watch
        self._latest = source_date_epoch()
        self._notes = Notes()
        self._maker = Maker(
            wanted.file.name, runtime, wanted.context, wanted.ignore, wanted.run, work, self._latest, watch.line, self._notes
        )
        self._work = work
        self._done: dict[int, State] = {}
        self._number = self._cached = 0
        self._total = sum(1 + len(stage.instructions) for stage in layout.stages)

    def run(self, names: tuple[str, ...]) -> Built:
        cache.sweep(self._dirs)
        for stage in self._layout.stages:
            state = self._step(stage, stage.begin, partial(self._from, stage))
            for instruction in stage.instructions:
                state = self._step(stage, instruction, partial(self._do, stage, state, instruction))
            self._done[stage.number] = state
        last = self._layout.stages[-1]
        if self._wanted.target:
            last = next(s for s in self._layout.stages if self._wanted.target.lower() in (s.name, str(s.number)))
        state = self._done[last.number]
        if self._wanted.labels:
            labels = {**settings.objects(state.config, "Labels"), **dict(self._wanted.labels)}
            state = state.replace(config={**state.config, "Labels": labels})
        if not state.diff_ids:
            raise BuildError(self._wanted.file.name, last.begin.line, "the image would have no files", "COPY something into it")
        found = self._publish(state, names)
        for name, _ in self._wanted.args:
            if name not in self._layout.used and name not in stages.PROXIES:
                self._notes.add(f"--build-arg {name}: no ARG asks for it")
        return Built(found, names, self._number, self._cached, tuple(self._notes.all()))

    def _step(self, stage: Stage, instruction: Instruction, act: Callable[[], tuple[State, bool]]) -> State:
        self._number += 1
        name = f"{stage.name}: " if stage.name and len(self._layout.stages) > 1 else ""
        self._watch.step(self._number, self._total, name + instruction.shown())
        start = time.monotonic()
        try:
            state, cached = act()
        except BuildError:
            raise
        except WordError as error:
            raise BuildError(self._wanted.file.name, instruction.line, f"{instruction.word}: {error}") from None
        except PyboxError as error:
            failed = BuildError(self._wanted.file.name, instruction.line, f"{instruction.word}: {error.message}", error.hint)
            # what kind of failure it is stays: 126 and 127 say of a RUN what they say of a run, and `pybox why` the rest
            failed.exit_code, failed.code = error.exit_code, error.code
            failed.step, failed.errno, failed.causes = error.step, error.errno, error.causes
            raise failed from error
        except OSError as error:
            reason = f"{instruction.word}: {error.strerror or error}"
            raise BuildError(self._wanted.file.name, instruction.line, reason) from None
        self._cached += cached
        self._watch.done(cached, time.monotonic() - start)
        return state

    # FROM

    def _from(self, stage: Stage) -> tuple[State, bool]:
        if isinstance(stage.base, int):
            return self._done[stage.base].replace(args=(), own_cmd=False), False
        if stage.base == SCRATCH:
            empty = Image(SCRATCH, "", ())
            return State(self._first_key(SCRATCH), empty, (), settings.with_path({}), {}, (), rfc3339(self._latest or 0)), False
        return self._state_of(self._bring(stage.base)), False

    def _first_key(self, base: str) -> str:
        return cache.key("from", base, str(self._latest))  # a layer that was dated otherwise is another

    def _state_of(self, image: Image) -> State:
        there = store.stored(self._dirs, image.id)
        document = configs.obj(configs.load(store.config_blob(self._dirs, image.id), "the image configuration"), "configuration")
        config = configs.obj(document.get("config") or {}, "config of the image configuration")
        if config.pop("OnBuild", None):
            raise PyboxError(f"{image.name} has instructions for those who build on it (ONBUILD), which is not supported")
        history = tuple(json.dumps(step) for step in configs.objects(document, "history"))
        kept = {name: document[name] for name in ("architecture", "author", "os.version", "variant") if document.get(name)}
        tree = Image(image.name, image.id, image.layers)
        return State(self._first_key(image.id), tree, there.diff_ids, settings.with_path(config), kept, history, there.created)

    # What comes after it

    def _do(self, stage: Stage, state: State, instruction: Instruction) -> tuple[State, bool]:
        wording = Wording(instruction, state.values(), self._wanted.file.escape)
        word = instruction.word
        if word == "ARG":
            return self._arg(state, wording)
        if word == "MAINTAINER":
            author = wording.expand(instruction.text)
            return self._noted(state.replace(document={**state.document, "author": author}), f"MAINTAINER {author}")
        task: Task | None
        if word == "RUN":
            task = self._maker.run(state, instruction, self._proxies())
        elif word in ("COPY", "ADD"):
            task = self._maker.copy(state, wording, self._tree_of(stage, instruction))
        else:
            config, said = settings.apply(state.config, wording)
            if word == "ENTRYPOINT" and not state.own_cmd:
                config.pop("Cmd", None)  # as docker: the base's arguments were for the base's program
            new = state.replace(config=config, own_cmd=state.own_cmd or word == "CMD")
            task = self._maker.workdir(new) if word == "WORKDIR" else None
            if task is None:
                return self._noted(new, f"{word} {said}")
            state = new
        try:
            return self._layered(state, task.key, task.said, task.make)
        finally:
            task.close()

    def _proxies(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, value) for name, value in self._wanted.args if name in stages.PROXIES)

    def _arg(self, state: State, wording: Wording) -> tuple[State, bool]:
        given, early = dict(self._wanted.args), dict(self._layout.globals)
        args = dict(state.args)
        said = []
        for name, default in checking.arguments(wording.text, wording.escape):
            value = given.get(name)
            if value is None and default is not None:
                value = wording.expand(default)
            if value is None:
                value = early.get(name)
            if value is not None:
                args[name] = value
            said.append(name if default is None else f"{name}={wording.expand(default)}")
        return self._noted(state.replace(args=tuple(args.items())), f"ARG {' '.join(said)}")

    def _tree_of(self, stage: Stage, instruction: Instruction) -> Image | None:
        wanted = dict(instruction.flags).get("from")
        if wanted is None:
            return None
        number = self._layout.find(wanted, stage.number)
        if number is not None:
            return self._done[number].image
        return self._bring(wanted)

    def _noted(self, state: State, said: str) -> tuple[State, bool]:
        """Return the state after a step that made no files; when it was first taken is remembered, so that it is the same image."""
        name = cache.key(state.key, "note", said, json.dumps(state.config, sort_keys=True))
        known = cache.look(self._dirs, name) if self._wanted.cached else None
        created = known.created if known is not None else rfc3339(dated(self._latest))
        if known is None:
            cache.remember(self._dirs, self._work, name, cache.Known(state.image.id[7:], created))
        return state.after(name, said, created), known is not None

    def _layered(self, state: State, key: str, said: str, make: Callable[[str], str]) -> tuple[State, bool]:
        """Return the state with one more layer: the one that was made of the same before, or a new one."""
        if self._wanted.cached and (known := cache.look(self._dirs, key)) is not None and known.layer:
            try:
                there = store.stored(self._dirs, f"sha256:{known.image}")
            except ImageError:  # somebody has just removed it
                there = None
            if there is not None and there.diff_ids[:-1] == state.diff_ids:
                return state.after(key, said, known.created, _stage(there.id, there.layers), there.diff_ids), True
        folder = f"{self._work}/layer{self._number}"
        diff_id = make(folder)
        created = rfc3339(dated(self._latest))
        new = state.after(key, said, created, state.image, (*state.diff_ids, diff_id))
        step: dict[str, Json] = {
            "architecture": state.document.get("architecture", store.architecture()),
            "config": {},
            "created": created,
            "history": [{"created": created, "created_by": said, "comment": "a step of pybox build"}],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": new.diff_ids},
        }
        found = configs.parse(json.dumps(step, sort_keys=True, separators=(",", ":")).encode())
        self._place(NewImage(found, step=True), {diff_id: folder})
        cache.remember(self._dirs, self._work, key, cache.Known(found.id[7:], created, layer=True))
        layers = tuple(store.layer_path(self._dirs, each) for each in NewImage(found).keys)
        return new.replace(image=_stage(found.id, layers)), False

    def _place(self, image: NewImage, fresh: Mapping[str, str]) -> None:
        with Locks(self._dirs, map(store.layer_key, image.config.diff_ids)):
            for diff_id, folder in fresh.items():
                changes.place(self._dirs, store.layer_key(diff_id), folder)
            for diff_id in image.config.diff_ids:
                if not changes.present(self._dirs, diff_id):
                    raise ImageError("an image that this build stands on was just removed", "try again")
            changes.publish(self._dirs, self._work, (image,))

    def _publish(self, state: State, names: tuple[str, ...]) -> str:
        document: dict[str, Json] = {
            "architecture": store.architecture(),
            **state.document,
            "config": state.config,
            "created": state.created,
            "history": [json.loads(step) for step in state.history],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": list(state.diff_ids)},
        }
        found = configs.parse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
        self._place(NewImage(found, names), {})
        return found.id


def _stage(identity: str, layers: tuple[str, ...]) -> Image:
    return Image(identity[7:19], identity, layers)
