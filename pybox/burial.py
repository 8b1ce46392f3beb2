"""What is done about a container whose owner was killed, by a sweep (state.py) or by `pybox rm`; and the whole of `pybox gc`.

A container is there as long as its config is (kept.py). So removing one begins with its config, and whoever is killed after
that leaves something that nobody lists and the next gc removes; before that, the container is as it was.
"""

from __future__ import annotations

import posix as os

from pybox import kept, state
from pybox.dirs import Dirs
from pybox.errors import StateError
from pybox.host import read
from pybox.paths import is_dir, is_there
from pybox.undo import VERBS, undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json


def lost(identity: str, why: str) -> dict[str, Json]:
    """Return the result of a container whose end nobody saw."""
    return {"schema": "pybox.result/1", "id": identity, "reason": "lost", "exit_code": 137, "error": why}


def found_dead(dirs: Dirs, identity: str) -> list[str]:
    """Bury a container whose record is the caller's, unless a command is at it, which will. Raises OSError, ValueError."""
    if not is_dir(kept.folder(dirs, identity)):
        return bury(dirs, identity)
    try:
        lock = kept.lock(dirs, identity, 0)
    except StateError:
        return []
    try:
        return bury(dirs, identity)
    finally:
        os.close(lock)


def bury(dirs: Dirs, identity: str, forget: bool = False) -> list[str]:
    """Undo what a container without a living owner has left; returns a line for each thing done. Raises OSError, ValueError.

    Its record's lock is the caller's; so is kept.lock, if it is a kept one. That one stays, with a result that says that nobody
    saw its end; ``forget`` removes it too.
    """
    path = f"{dirs.state}/{identity}"
    journal = state.parse(read(f"{path}/journal").partition("\n")[0])
    leaves = (journal or {}).get("leaves", [])
    if not isinstance(leaves, list) or not all(isinstance(leaf, list) and len(leaf) == 2 and leaf[0] in VERBS for leaf in leaves):
        raise ValueError(f"its journal is of another version of pybox: {path}/journal")
    # one that pybox-monitor looked after, or that had ended when pybox was killed; what ran in the foreground is gone with it
    ended = not kept.is_running(dirs, identity)
    keep = not forget and kept.exists(dirs, identity) and (journal is None or bool(journal.get("kept")) or ended)
    if not keep:
        undo("unlink", f"{kept.folder(dirs, identity)}/config")
    elif not ended:
        kept.end(dirs, identity, lost(identity, "its pybox was killed"))
    done = []
    for leaf in reversed(leaves):
        assert isinstance(leaf, list)
        verb, target = str(leaf[0]), str(leaf[1])
        if keep and verb == "tree":
            continue
        if is_there(target):
            done.append(f"{identity}: removed {target}")
        undo(verb, target)
    state.remove_record(path)
    if keep:
        return [*done, f"{identity}: its pybox was killed; kept as it is"] if journal else done
    return [*done, f"{identity}: its pybox was killed; forgotten"]


def forget(dirs: Dirs, identity: str, name: str) -> None:
    """Remove what is kept of a container that does not run; its lock is the caller's. Raises OSError."""
    undo("unlink", f"{kept.folder(dirs, identity)}/config")
    undo("tree", f"{dirs.uppers}/{identity}")
    undo("tree", kept.folder(dirs, identity))
    if name:
        state.free_if_left(dirs, name)


def mend(dirs: Dirs) -> list[str]:
    """Do what a sweep does, and put right what else a command that was killed, or the machine, has left half done."""
    done = state.sweep(dirs)
    names = state.names(dirs)
    for identity in kept.identities(dirs):
        if not state.is_id(identity):
            continue
        try:
            lock = kept.lock(dirs, identity, 0)
        except StateError:  # it is being made, changed or removed
            continue
        try:
            done += _mend(dirs, identity, [name for name, holder in names if holder == identity])
        except OSError as error:
            done.append(f"{identity}{state.STUCK}{error}")
        finally:
            os.close(lock)
    return done


def _mend(dirs: Dirs, identity: str, names: list[str]) -> list[str]:
    if is_dir(f"{dirs.state}/{identity}"):
        at_rest = False
    else:
        at_rest = True
        if not kept.exists(dirs, identity):
            forget(dirs, identity, names[0] if names else "")
            return [f"{identity}: removed what was left of it"]
    done = []
    if at_rest and kept.is_running(dirs, identity):
        kept.end(dirs, identity, lost(identity, "the machine went down while it ran"))
        done.append(f"{identity}: the machine went down while it ran; kept as it is")
    right = (kept.plain(dirs, identity) or {}).get("name")
    for name in names:
        if isinstance(right, str) and name != right:  # a rename was killed half-way
            undo("unlink", f"{dirs.store}/names/{name}")
            done.append(f"freed the name {name}")
    if isinstance(right, str) and right and right not in names:
        try:
            state.reserve(dirs, identity, right)
            done.append(f"{identity}: gave it its name {right} again")
        except StateError as error:
            done.append(f"{identity}{state.STUCK}{error.message}")
    return done
