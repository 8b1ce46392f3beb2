"""`--hpc`: a container as a prefix of a command, `pybox run --hpc IMAGE python -m worker`, as batch systems and their libraries use it.

    settle    write into the Spec what --hpc means, so that nothing after it need know: all of it is plain options
    notes     which of the caller's directories are not there inside, and why

The command is to believe that it was started where its caller is: same ids, environment, working directory and umask, same host
name, network and shared memory, and the directories that jobs work in at the same paths. Everything else is the image's, read-only:
what a job wrote there would be lost with the container, and nobody would notice. An option that is given goes before all of this.
"""

from __future__ import annotations

import os

from pybox.errors import SpecError
from pybox.host import read
from pybox.record import Record
from pybox.spec import Mount, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# They name files of the caller's root, where inside is the image's; `-e NAME` takes them along all the same.
NOT_TAKEN = frozenset(("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME"))

# The image's own: the caller's there, or what is below it, would take its programs away.
_IMAGE = frozenset("bin boot dev etc lib lib32 lib64 libx32 proc sbin sys usr".split())
# Here only what is below: a job's place may be in there, but as a whole it is the image's.
_PARENTS = frozenset(("/", "/opt", "/run", "/srv", "/var"))


class Place(Record):
    """A directory of the caller's that the command may expect, and why it is not there inside; "" if it is."""

    path: str
    origin: str  # as the caller would name it
    problem: str = ""


def settle(spec: Spec, said: Collection[str]) -> Spec:
    """Return the Spec with all that --hpc means for this process, its environment and where it stands.

    Args:
        said: names of the options that were given; they stay as they are, but for env and mounts, to which is added.

    Raises SpecError when there is no working directory that could be the same inside, and for an init.
    """
    if spec.system:
        raise SpecError("hpc", "", "can't be together with --system", "an init has a machine of its own, not its caller's place")
    here = _here()
    if not (spec.workdir or here):
        raise SpecError("hpc", ".", "the working directory was removed", "go elsewhere, or say where to work: -w DIR")
    found = places(spec)
    if not spec.workdir and found[0].problem.startswith("it is below"):
        raise SpecError("hpc", here, f"can't be shown inside: {found[0].problem}", "say where to work: -w DIR")
    changes: dict[str, object] = {
        "env": tuple({**{name: os.environ[name] for name in os.environ if name not in NOT_TAKEN}, **dict(spec.env)}.items()),
        "mounts": (*spec.mounts, *_binds(spec, found)),
        "workdir": spec.workdir or here,
        "umask": int((read("/proc/self/status").partition("Umask:")[2].split() or ["022"])[0], 8),
    }
    presets: dict[str, object] = {"network": "host", "ipc": "host", "read_only": True, "user": f"{os.geteuid()}:{os.getegid()}"}
    if "hostname" not in said:
        presets["uts"] = "host"
    if "user" not in said:
        changes["keep_id"] = True
    changes.update((name, value) for name, value in presets.items() if name not in said)
    return spec.replace(**changes)


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return ""


def places(spec: Spec) -> list[Place]:
    """Return the caller's directories, each with what speaks against showing it inside. The working directory is the first."""
    here, name = _here(), os.environ.get("PWD", "")
    wanted = [(f"the working directory {here}", here)] if here else []
    if here and name != here and _same(name):  # there by way of a symlink, which need not be inside
        wanted.append((name, name))
    wanted += [(f"{name}={path}", path) for name in ("HOME", "TMPDIR", "SLURM_SUBMIT_DIR") if (path := os.environ.get(name))]
    wanted += [(path, path) for path in ("/tmp", "/scratch") if os.path.isdir(path)]
    found: dict[str, Place] = {}
    for origin, path in wanted:
        plain = os.path.normpath(path)
        if plain not in found:
            found[plain] = Place(plain, origin, _problem(spec, plain))
    return list(found.values())


def _same(path: str) -> bool:
    try:
        return path.startswith("/") and os.path.samefile(path, ".")
    except OSError:
        return False


def _problem(spec: Spec, path: str) -> str:
    if not path.startswith("/"):
        return "it is no absolute path"
    if path in _PARENTS or (path.split("/")[1] in _IMAGE and not f"{path}/".startswith("/dev/shm/")):
        return "the image's own is there"
    if not os.path.isdir(path):
        return "there is no such directory here"
    for mount in spec.mounts:
        target = os.path.normpath(mount.target)
        if path.startswith(f"{target}/") and (mount.source is None or os.path.normpath(mount.source) != target):
            return f"it is below {target}, where something else is mounted"
    return ""


def _binds(spec: Spec, found: list[Place]) -> Iterator[Mount]:
    """Yield the binds: what lies below another one comes with it."""
    there = [os.path.normpath(mount.target) for mount in spec.mounts]
    for place in sorted(found, key=lambda place: place.path.count("/")):
        if not place.problem and not any(place.path == path or place.path.startswith(f"{path}/") for path in there):
            there.append(place.path)
            yield Mount(place.path, source=place.path)


def notes(spec: Spec) -> Iterator[str]:
    """Yield a line for each of the caller's directories that a settled Spec does not show, and that one would expect."""
    for place in places(spec):
        expected = "=" in place.origin or (place.path == spec.workdir and place.path != "/")  # nobody works in /
        if place.problem and expected:
            yield f"--hpc: {place.origin} is not shown inside: {place.problem}"
