"""SIGKILL at any moment of a container's life: `pybox gc` makes it whole again, as it was before or ended with nobody knowing how.

The moments are enumerated: the doomed process kills itself at its n-th call of a function that changes something outside of it.
"""

from __future__ import annotations

import os
import posix
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import PURE_V2, cli, eventually, groups
from test_crash import fork, gone
from test_life import all_gone, background, log, seen, status

from pybox import api, burial, dirs, kept, lifecycle, listing, monitor, state, undo
from pybox.cli import main
from pybox.runtime import Runtime
from pybox.spec import Limits, Spec

pytestmark = pytest.mark.usefixtures("all_gone")
__all__ = ["all_gone"]
EFFECTS = ("open", "write", "mkdir", "symlink", "rename", "unlink", "rmdir", "fork", "execve", "kill", "waitpid")
STEP = 5 if PURE_V2 else 1  # the slow kernel takes a sample


def mine() -> Runtime:
    return api._SHARED.runtime()


def doomed(moment: int, act: Callable[[], object]) -> bool:
    """Do something in a child that dies at its n-th effect; False when it came to its end before."""
    with fork() as pid:
        if pid == 0:
            os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
            count = [moment]

            def fatal(real: Callable[..., object]) -> Callable[..., object]:
                def call(*args: object, **kwargs: object) -> object:
                    count[0] -= 1
                    if count[0] < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*args, **kwargs)

                return call

            real_kill, real_open = os.kill, os.open
            for name in EFFECTS:
                setattr(os, name, fatal(getattr(os, name)))
                setattr(posix, name, getattr(os, name))
            os.kill = posix.kill = real_kill
            os.open = posix.open = lambda path, flags, *rest, **more: (  # type: ignore[assignment]
                fatal(real_open) if flags & os.O_CREAT else real_open
            )(path, flags, *rest, **more)
            act()
            os._exit(0)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


def moments(act: Callable[[], object]) -> Iterator[int]:
    """Yield the number of each moment at which it was killed, until it was not."""
    moment = 0
    while doomed(moment, act):
        yield moment
        moment += STEP
    assert moment > 2


def mended(store: dirs.Dirs, known: str | None = None) -> None:
    """Run gc; assert that all is whole then, and that a second one finds nothing to do."""
    for pid in list(children()):
        assert eventually(lambda pid=pid: gone(pid) or settled(store))
    assert eventually(lambda: settled(store))
    burial.mend(store)
    assert burial.mend(store) == []
    entries = listing.entries(store)
    assert {entry.status for entry in entries} <= {"created", "running", "exited"}, entries
    assert {entry.identity for entry in entries} == set(kept.identities(store))
    assert sorted(name for name, _ in state.names(store)) == sorted(entry.name for entry in entries if entry.name)
    assert set(os.listdir(store.state)) == {entry.identity for entry in entries if entry.alive}
    if known is not None and not any(entry.alive for entry in entries):  # groups of others are other people's
        assert [path for path in groups() if path.endswith(known)] == []
    assert set(os.listdir(store.uppers)) <= {entry.identity for entry in entries}


def children() -> list[int]:
    from harness import children as ours

    return [pid for pid, how in ours().items() if how != "Z"]


def settled(store: dirs.Dirs) -> bool:
    """Return whether nothing is between two statuses."""
    return all(entry.status in ("exited", "running", "dead") or not entry.alive for entry in listing.entries(store))


def what(**more: object) -> kept.Kept:
    spec = Spec(image="busybox", args=("sh", "-c", "echo ran; sleep 60"), limits=Limits(pids=20))
    return kept.Kept(identity=state.new_id(), spec=spec, name="doomed", **more)  # type: ignore[arg-type]


def test_create_killed_at_any_moment_leaves_a_container_or_none(store: dirs.Dirs) -> None:
    lifecycle.remove(store, listing.find(store, lifecycle.create(mine(), what()).identity))  # what is made once is made
    for _ in moments(lambda: lifecycle.create(mine(), what())):
        mended(store)
        for entry in listing.entries(store):
            assert (entry.status, entry.name) == ("created", "doomed")
            lifecycle.remove(store, entry)
    lifecycle.remove(store, listing.find(store, "doomed"))


def test_start_killed_at_any_moment_leaves_it_as_it_was_or_lost(store: dirs.Dirs) -> None:
    identity = lifecycle.create(mine(), what()).identity
    found = set()

    def start() -> None:
        monitor.become(mine(), kept.load(store, identity), state.claim_again(store, identity))  # type: ignore[arg-type]

    for _ in moments(lambda: become_and_end(start)):
        assert eventually(lambda: not seen(identity).alive)
        mended(store, identity)
        entry = seen(identity)
        found.add((entry.status, (entry.result or {}).get("reason")))
        assert entry.name == "doomed"
    assert ("created", None) in found and found <= {("created", None), ("exited", "lost")}


def become_and_end(start: Callable[[], None]) -> None:
    """Start a container; instead of becoming its monitor at the end, succeed."""

    def exec_(path: str, words: list[str], env: object) -> None:
        if Path(path).name == "pybox-monitor":
            os._exit(0)  # with it the container ends, at its leash

    os.execve = exec_  # type: ignore[assignment]
    start()


@pytest.mark.parametrize("restart", ["no", "always"])
@pytest.mark.parametrize("remove", [False, True])
def test_finish_killed_at_any_moment_loses_no_end(store: dirs.Dirs, restart: str, remove: bool) -> None:
    if remove and restart != "no":
        pytest.skip("refused")
    fate = monitor.Fate(3 << 8, 3 << 8, 100, 0, 0, 100, 0, 0, 0, 0, 0)

    def running() -> state.Claim:
        made = lifecycle.create(mine(), what(restart=restart, remove=remove))
        claim = state.claim_again(store, made.identity)
        with fork() as pid:
            if pid == 0:
                monitor._exec = lambda *args: os._exit(0)  # type: ignore[assignment]
                monitor.become(mine(), made, claim)
        os.waitpid(pid, 0)
        return claim

    moment, ended = 0, True
    while ended:
        claim = running()

        def end(claim: state.Claim = claim) -> None:
            os.execve = lambda *args: os._exit(0)  # type: ignore[assignment]
            monitor.finish(store, claim.identity, os.dup(claim.lock), "{}", fate)

        ended = doomed(moment, end)
        os.close(claim.lock)
        mended(store, claim.identity)
        found = [(entry.status, (entry.result or {}).get("exit_code")) for entry in listing.entries(store)]
        assert found in ([], [("exited", 3)], [("exited", 137)]) and (found == []) == remove, (moment, found)
        assert remove or moment < 3 or found == [("exited", 3)]  # from the rename on
        for entry in listing.entries(store):
            lifecycle.remove(store, entry)
        moment += STEP
    assert moment > 3


def test_rm_killed_at_any_moment_leaves_all_or_nothing(store: dirs.Dirs) -> None:
    def ended() -> str:
        identity = background("--name", "doomed", "busybox", "sh", "-c", "mkdir -p /a/b; touch /a/b/c /d")
        assert cli("wait", identity).returncode == 0
        return identity

    moment, identity = 0, ended()
    files = len(list(Path(store.uppers, identity).rglob("*")))
    while doomed(moment, lambda: lifecycle.remove(store, listing.find(store, "doomed"))):
        mended(store)
        if listing.entries(store):
            assert len(list(Path(store.uppers, identity).rglob("*"))) == files and status("doomed") == "exited"
        else:
            assert os.listdir(store.uppers) == kept.identities(store) == []
            identity = ended()
        moment += STEP
    assert moment > 3


def test_rename_killed_at_any_moment_leaves_one_name(store: dirs.Dirs) -> None:
    identity = lifecycle.create(mine(), what()).identity
    other = {"doomed": "other", "other": "doomed"}
    for _ in moments(lambda: lifecycle.rename(store, listing.find(store, identity), other[str(seen(identity).name)])):
        mended(store)
        assert seen(identity).name in other and (kept.plain(store, identity) or {})["name"] == seen(identity).name


def test_stop_and_rm_f_killed_at_any_moment_leave_it_whole(store: dirs.Dirs) -> None:
    for words in (["stop", "-t", "5"], ["rm", "-f"], ["kill"], ["restart", "-t", "5"]):
        moment = 0
        while True:
            if not listing.entries(store):
                background("--name", "doomed", "busybox", "sleep", "60")
            elif not seen("doomed").alive:
                assert cli("start", "doomed").returncode == 0
            killed = doomed(moment, lambda words=words: main.dispatch([*words, "doomed"]))
            mended(store)
            moment += max(2, STEP)
            if not killed:
                break


def test_what_waits_for_its_next_start_is_killed(store: dirs.Dirs) -> None:
    identity = background("--restart", "always", "busybox", "sh", "-c", "echo ran; exit 4")
    owner = int(str(seen(identity).journal.get("owner") or 0)) or next(pid for pid in children())
    assert eventually(lambda: len(log(identity)) >= 3 and status(identity) == "restarting")
    os.kill(owner, signal.SIGKILL)
    assert eventually(lambda: not seen(identity).alive and gone(owner))
    mended(store)
    assert (status(identity), (seen(identity).result or {})["exit_code"]) in (("exited", 4), ("exited", 137))


def test_the_modules_under_test_undo_by_one_function() -> None:
    assert burial.undo is monitor.undo is undo.undo
