"""pybox.build: an image from a Containerfile, from Python."""

from __future__ import annotations

import os

from pybox import api
from pybox.containerfile import building, ignore, reading, sources
from pybox.containerfile.building import Built, Wanted
from pybox.containerfile.ignore import Ignore
from pybox.containerfile.sources import Pick, Root
from pybox.dirs import Dirs
from pybox.errors import ImageNotFound, PyboxError, SpecError
from pybox.image import reference, store
from pybox.spec import no_nul

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Unpack

    from pybox.api import Container
    from pybox.containerfile.building import Watch
    from pybox.containerfile.reading import Containerfile
    from pybox.image.model import Image
    from pybox.spec import Spec

    Fetch = Callable[[Dirs, str, ImageNotFound | None], None]

DEFAULTS = ("Containerfile", "Dockerfile")
# What may be said of the containers of RUN; the rest is for the Containerfile to say.
ALLOWED = frozenset(
    "memory memory_swap cpus cpu_shares cpuset_cpus pids oom_score_adj mounts ulimits network dns add_host allow_net net_rate cap_add"
    " cap_drop seccomp no_new_privs best_effort userns".split()
)


def build(
    context: str | os.PathLike[str],
    *,
    file: str | os.PathLike[str] | bytes | None = None,
    tag: str | Iterable[str] = (),
    build_args: Mapping[str, str] | None = None,
    target: str = "",
    cache: bool = True,
    pull: str = "missing",
    labels: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    **container: Unpack[Container],
) -> Built:
    """Build an image from a Containerfile; returns its id, and how many of its steps were known already.

    Args:
        context: the directory that COPY and ADD take files from.
        file: the Containerfile, if not Containerfile or Dockerfile in the context; its text itself as bytes.
        tag: a name for the image, or several. build_args: values for ARG. labels: put on top of those of the Containerfile.
        target: the stage to build, if not the last. cache: False makes every step anew.
        pull: ``"missing"``, ``"always"`` or ``"never"``: when to ask the registry for the images of FROM and --from.
        watch: who is told of each step and of each line that a RUN writes: an object with ``step``, ``line`` and ``done``.
        container: what holds for every RUN, as in `pybox.run`: network (``"none"`` unless said otherwise), allow_net, memory, cpus...

    Raises:
        ContainerfileError: a line makes no sense or is not supported; nothing was run.
        RunFailed: a RUN ended with a failure: ``status``, ``output``, ``line``. BuildError: another line could not be done; its
            ``__cause__`` is why: ImageNotFound, for one. SpecError: what was asked for beside the Containerfile makes no sense.
    """
    for option in container:
        if option not in ALLOWED:
            raise SpecError(
                option, "", "is for the Containerfile to say" if option in api.Container.__annotations__ else "no option"
            )
    asked = Asked(
        context=os.fspath(context),
        file=file if isinstance(file, bytes) else "" if file is None else os.fspath(file),
        names=(tag,) if isinstance(tag, str) else tuple(tag),
        args=tuple((build_args or {}).items()),
        target=target,
        cached=cache,
        labels=tuple((labels or {}).items()),
        run=api.spec_of("none", (), container),
    )
    policy = store.check_pull(pull)
    return asked.build(lambda name: bring(api.shared().dirs, name, policy), watch)


class Asked:
    """What was asked for, before anything of it is read."""

    def __init__(
        self,
        *,
        context: str,
        file: str | bytes,
        names: tuple[str, ...],
        args: tuple[tuple[str, str], ...],
        target: str,
        cached: bool,
        labels: tuple[tuple[str, str], ...],
        run: Spec,
    ) -> None:
        for word in (context, target, *names, *(each for pair in (*args, *labels) for each in pair)):
            no_nul("build", word)
        self._context, self._file, self._names, self._args, self._target = context, file, names, args, target
        self._cached, self._labels, self._run = cached, labels, run

    def build(self, bring: Callable[[str], Image], watch: Watch | None = None) -> Built:
        """Read and build. Raises PyboxError."""
        try:
            root = os.open(self._context, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            hint = "the context is a directory of this machine: tars, URLs and git repositories are not supported"
            raise SpecError("context", self._context, str(error.strerror), hint) from None
        try:
            file, ignored = self._read(root)
            wanted = Wanted(
                file=file,
                context=root,
                ignore=ignored,
                names=self._names,
                args=self._args,
                target=self._target,
                cached=self._cached,
                run=self._run,
                labels=self._labels,
            )
            return building.build(api.shared(), wanted, bring, watch)
        finally:
            os.close(root)

    def _read(self, root: int) -> tuple[Containerfile, Ignore]:
        beside = None
        if isinstance(self._file, bytes):
            name, blob = "Containerfile", self._file
        elif self._file:
            name, blob = self._file, _read(self._file)
            try:
                beside = _read(f"{self._file}.dockerignore")
                said = f"{self._file}.dockerignore"
            except PyboxError:
                pass
        else:
            found = _first(root, DEFAULTS)
            if found is None:
                raise SpecError("context", self._context, "has no Containerfile and no Dockerfile", "-f FILE names another")
            name, blob = found
            own = _first(root, (f"{name}.dockerignore",))
            beside, said = (own[1], own[0]) if own else (None, "")
        if beside is None:
            found = _first(root, (".containerignore", ".dockerignore"))
            said, beside = found or ("", b"")
        return reading.read(blob, name), ignore.parse(beside.decode("utf-8", "surrogateescape"), said)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(8 << 20)
    except (OSError, ValueError) as error:
        raise SpecError("file", path, str(getattr(error, "strerror", error))) from None


def _first(root: int, names: Iterable[str]) -> tuple[str, bytes] | None:
    """Return (name, content) of the first of some files that a context has. Links are followed within the context only."""
    for name in names:
        try:
            path, status = sources.resolved(root, name)
            if status is None:
                continue
            with open(sources.open_file(Root(root), Pick(tuple(path), b"", False)), "rb") as file:
                return name, file.read(8 << 20)
        except OSError as error:
            raise SpecError("context", name, str(error.strerror or error)) from None
    return None


def bring(dirs: Dirs, name: str, policy: str, fetch: Fetch | None = None) -> Image:
    """Return the image of a name, pulled by a policy of ``store.PULL``; an id can't be pulled. Raises ImageError."""

    def pull(absent: ImageNotFound | None) -> None:
        try:
            reference.parse(name)
        except PyboxError:
            if absent is not None:
                raise absent from None
            return
        (fetch or _fetch)(dirs, name, absent)

    return store.pulled(policy, lambda: store.find(dirs, name), pull)


def _fetch(dirs: Dirs, name: str, absent: ImageNotFound | None) -> None:
    from pybox.registry import pull as pulling

    try:
        pulling.pull(dirs, name)
    except PyboxError as error:
        if absent is None:
            raise
        raise ImageNotFound(f"{absent.message}, and it can't be pulled: {error.message}", absent.hint) from None
