"""The files of a plain user's containers: with one id, and with the many ids of /etc/subuid."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PYBOX, TIMEOUT
from test_rootless import GID, UID, Person, home, person, pytestmark, wealthy  # noqa: F401


@contextlib.contextmanager
def ended(person: Person, script: str) -> Iterator[str]:  # noqa: F811
    done = person.pybox("run", "--name", "box", "busybox", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    try:
        yield "box"
    finally:
        assert person.pybox("rm", "box").returncode == 0
        assert person.leftovers() == []


@contextlib.contextmanager
def alive(person: Person, script: str) -> Iterator[str]:  # noqa: F811
    become = {} if person.prefix else {"user": UID, "group": GID, "extra_groups": []}
    words = ("run", "--rm", "--name", "box", "busybox", "sh", "-c", f"{script}; echo up; read line")
    process = subprocess.Popen(
        [*person.prefix, *PYBOX, *words], env=person.env, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, **become
    )  # type: ignore[call-overload]
    try:
        assert process.stdout.readline() == b"up\n"
        yield "box"
    finally:
        process.communicate(b"end\n", timeout=TIMEOUT)
        assert person.leftovers() == []


def good(person: Person, *words: str) -> str:  # noqa: F811
    done = person.pybox(*words)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return str(done.stdout)


@pytest.fixture
def files(home: Path) -> Iterator[Path]:  # noqa: F811
    """A tree of the user's, and below the same directory a place to copy to."""
    folder = home / "files"
    (folder / "tree/sub").mkdir(parents=True)
    (folder / "tree/f").write_text("mine")
    (folder / "tree/f").chmod(0o600)
    (folder / "tree/l").symlink_to("f")
    os.utime(folder / "tree/f", ns=(1, 1_000_000_007))
    subprocess.run(["chown", "-Rh", f"{UID}:{GID}", folder], check=True)
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture(params=["one id", "many ids"])
def who(request: pytest.FixtureRequest) -> Person:
    found: Person = request.getfixturevalue("person" if request.param == "one id" else "wealthy")
    return found


@pytest.mark.parametrize("state", [alive, ended])
def test_a_tree_goes_in_and_comes_out_as_the_callers(who: Person, files: Path, state: type) -> None:
    with state(who, "mkdir /closed; echo x >/closed/f; chmod 0 /closed /closed/f") as box:
        good(who, "cp", f"{files}/tree", f"{box}:/new")
        good(who, "cp", f"{box}:/new", f"{files}/back")
        good(who, "cp", f"{box}:/closed/f", f"{files}/closed")
        assert good(who, "diff", box) == "A /closed\nA /closed/f\nA /new\nA /new/f\nA /new/l\nA /new/sub\n"
        good(who, "export", "-o", f"{files}/out.tar", box)
        with tarfile.open(files / "out.tar") as archive:
            assert {"./new/f", "./closed/f", "./bin/busybox"} <= set(archive.getnames())
    status = (files / "back/f").stat()
    assert (status.st_uid, status.st_gid, status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (UID, GID, 1_000_000_007, 0o600)
    assert os.readlink(files / "back/l") == "f" and (files / "closed").stat().st_uid == UID


@pytest.mark.parametrize("state", [alive, ended])
def test_a_commit_runs(who: Person, files: Path, state: type) -> None:
    with state(who, "rm -r /home; mkdir /home; touch /home/new; rm /etc/group") as box:
        good(who, "commit", "-c", 'CMD ["ls", "/home"]', box, "made")
        assert good(who, "run", "--rm", "made") == "new\n"
        assert json.loads(good(who, "image", "inspect", "made"))[0]["Config"]["Cmd"] == ["ls", "/home"]
    good(who, "rmi", "made")


@pytest.mark.parametrize("state", [alive, ended])
def test_with_many_ids_owners_are_those_of_the_containers_view(wealthy: Person, files: Path, state: type) -> None:  # noqa: F811
    os.chown(files / "tree/sub", UID, 7)
    with state(wealthy, "touch /theirs; chown 33:44 /theirs; mkdir /d; chown 5 /d; chmod 700 /d; touch /d/f") as box:
        assert " 33 44 " in _owners(good(wealthy, "cp", f"{box}:/theirs", "-"))
        good(wealthy, "cp", f"{box}:/d", f"{files}/d")
        assert (files / "d/f").stat().st_uid == UID
        done = wealthy.pybox("cp", "-a", f"{box}:/theirs", f"{files}/theirs")
        assert done.returncode == 0 and "not given to 33:44, which takes root" in done.stderr
        assert good(wealthy, "diff", box) == "A /d\nA /d/f\nA /theirs\n"


def _owners(tar: str) -> str:
    with tarfile.open(fileobj=io.BytesIO(tar.encode())) as archive:
        return "".join(f" {member.uid} {member.gid} " for member in archive)


def test_with_one_id_an_owner_that_is_not_there_is_refused_with_the_way_out(person: Person, files: Path) -> None:  # noqa: F811
    with ended(person, "true") as box:
        done = person.pybox("cp", "-a", f"{files}/tree/f", f"{box}:/f")
        assert done.returncode == 125 and "no owner" in done.stderr and "leave out -a" in done.stderr
        assert good(person, "diff", box) == ""


def test_files_that_are_not_the_users_are_not_reached(person: Person, files: Path) -> None:  # noqa: F811
    (files / "secret").write_text("root's")
    (files / "secret").chmod(0o600)
    (files / "tree/link").symlink_to("../secret")
    with ended(person, "true") as box:
        assert "Permission denied" in person.pybox("cp", f"{files}/secret", f"{box}:/s").stderr
        assert "Permission denied" in person.pybox("cp", "-L", f"{files}/tree/link", f"{box}:/s").stderr
        (files / "closed").mkdir(mode=0o755)
        assert "Permission denied" in person.pybox("cp", f"{box}:/etc/passwd", f"{files}/closed/").stderr
        assert good(person, "diff", box) == ""


def test_the_machines_own_root_takes_files_too(person: Person, files: Path) -> None:  # noqa: F811
    done = person.pybox("run", "--name", "own", "host", "true")
    assert done.returncode == 0, done.stderr
    good(person, "cp", f"{files}/tree", "own:/tmp/new")
    good(person, "cp", "own:/tmp/new/f", f"{files}/again")
    assert (files / "again").read_text() == "mine" and not os.path.exists("/tmp/new/f")
    assert "can't be told" in person.pybox("diff", "own").stderr
    assert person.pybox("rm", "own").returncode == 0
