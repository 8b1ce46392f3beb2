"""Plans that are kept: used again when nothing that they depend on has changed, and only then."""

from __future__ import annotations

import os
from pathlib import Path
from struct import iter_unpack

import pytest

from pybox import bundle, native, plans
from pybox.dirs import Dirs
from pybox.host import Cgroups, Facts
from pybox.lowering import Table
from pybox.native import Program
from pybox.plans import Typed
from pybox.ready import Ready
from pybox.spec import Mount, Spec
from pybox.steps.hostside import MakeGroup, MakeUserNamespace
from pybox.steps.network import MakeNetwork
from pybox.steps.process import BecomeInit, Exec

FACTS = Facts(
    0,
    True,
    0,
    "x86_64",
    "6.18.0",
    40,
    Cgroups("/cg", frozenset({"memory", "pids"})),
    (("/proc/kcore", False),),
    ("/proc/sys",),
    2,
)
READY = Ready(
    program=Program(b"rows\0", 1, b"blob\xff", (3, 9), (("stdin", 0),)),
    prepare=(MakeNetwork(), MakeGroup("/cg/CONTAINER-ID", "cgroup", killer=True), MakeUserNamespace(((0, 1, 2),), ((0, 1, 2),))),
    effective=(("memory", "memory.max"),),
    groups=(("", "/cg/CONTAINER-ID"),),
    words=("true", "\udcff"),
    image=("busybox", "sha256:1", ("/layer",)),
    owner=(0, 0),
    init=True,
    holder=False,
    returns_network=True,
    asked={"image": "busybox", "args": ["true", "\udcff"], "limits": {"memory": 5}},
    keep=True,
    managed=False,
)
TYPED = Typed(2.5, True, "web", 1 << 20)
WORDS = ["--rm", "busybox", "true", "\udcff"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dirs:
    """An installed pybox with one image and one directory to bind."""
    monkeypatch.setattr(bundle, "ID", "one")
    monkeypatch.chdir(tmp_path)
    dirs = Dirs(f"{tmp_path}/store", f"{tmp_path}/state")
    Path(dirs.images, "names").mkdir(parents=True)
    tag(dirs, "first")
    Path(tmp_path, "data").mkdir()
    return dirs


def tag(dirs: Dirs, target: str) -> None:
    link = Path(dirs.images, "names", "busybox:latest")
    link.unlink(missing_ok=True)
    link.symlink_to(f"../{target}.json")


def spec(dirs: Dirs) -> Spec:
    return Spec("busybox", mounts=(Mount("/data", f"{Path(dirs.store).parent}/data"), Mount("/tmp")))


def keep(dirs: Dirs) -> None:
    known = plans.conditions(dirs, spec(dirs), FACTS)
    assert known is not None
    plans.remember(dirs, WORDS, 1, known, TYPED, READY)


def again(dirs: Dirs, words: list[str] | None = None, facts: Facts = FACTS) -> Ready | None:
    known = plans.recall(dirs, words or WORDS)
    return known and known.revive(facts)


def test_what_was_kept_comes_back_as_it_was(here: Dirs) -> None:
    assert again(here) is None
    keep(here)
    known = plans.recall(here, WORDS)
    assert known is not None and known.typed == TYPED
    assert known.revive(FACTS) == READY
    assert os.stat(f"{here.state}/plans").st_mode & 0o777 == 0o700


@pytest.mark.parametrize("field", [field for field in Facts._fields if field != "cgroups"])
def test_another_fact_of_the_host_is_another_plan(here: Dirs, field: str) -> None:
    keep(here)
    assert again(here, facts=FACTS.replace(**{field: "changed"})) is None


@pytest.mark.parametrize("field", Cgroups._fields)
def test_another_place_of_control_groups_is_another_plan(here: Dirs, field: str) -> None:
    keep(here)
    assert again(here, facts=FACTS.replace(cgroups=FACTS.cgroups.replace(**{field: "changed"}))) is None


def test_other_words_another_place_or_another_build_are_another_plan(here: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(here)
    for other in (WORDS[:-2], ["-q", *WORDS], ["--rm busybox true", "\udcff"]):
        assert again(here, other) is None
    for other in (here.replace(store="/other"), here.replace(state="/other")):
        assert again(other) is None
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "ID", "two")
        assert again(here) is None
    with monkeypatch.context() as patch:
        patch.setattr(plans.os, "geteuid", lambda: 4711)
        assert again(here) is None
    with monkeypatch.context() as patch:
        patch.chdir("data")
        assert again(here) is None
    assert again(here) == READY


def test_two_plans_of_one_name_are_told_apart(here: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "source_hash", lambda key, text: b"same")
    keep(here)
    assert again(here, ["other"]) is None and again(here) == READY


def test_a_tag_that_has_moved_or_gone_is_noticed(here: Dirs) -> None:
    keep(here)
    tag(here, "second")
    assert again(here) is None
    tag(here, "first")
    assert again(here) == READY
    Path(here.images, "names", "busybox:latest").unlink()
    assert again(here) is None


def test_a_bound_directory_that_has_become_a_file_or_has_gone_is_noticed(here: Dirs) -> None:
    keep(here)
    Path("data").rmdir()
    assert again(here) is None
    Path("data").write_text("")
    assert again(here) is None


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_a_file_that_was_cut_off_or_overwritten_is_no_plan(here: Dirs, length: int) -> None:
    keep(here)
    (file,) = Path(here.state, "plans").iterdir()
    file.write_bytes(file.read_bytes()[:length])
    assert again(here) is None
    file.write_bytes(b"i\1\0\0\0")
    assert again(here) is None


@pytest.mark.parametrize(
    "asked",
    [
        Spec("host"),
        Spec("busybox@sha256:" + "0" * 64),
        Spec("busybox", seccomp="/profile.json"),
        Spec("busybox", system=True, init=False, tty=True),
        Spec("busybox", network="pybox"),
    ],
    ids=["host", "digest", "profile", "system", "network"],
)
def test_a_plan_that_depends_on_more_is_not_kept(here: Dirs, asked: Spec) -> None:
    assert plans.conditions(here, asked, FACTS) is None


def test_a_checkout_keeps_none(here: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "ID", "")
    assert plans.conditions(here, spec(here), FACTS) is None


def test_they_are_never_too_many(here: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_MOST", 3)
    known = plans.conditions(here, spec(here), FACTS)
    assert known is not None
    for number in range(10):
        plans.remember(here, [str(number)], None, known, TYPED, READY)
        assert 0 < len(os.listdir(f"{here.state}/plans")) <= 3


def test_no_room_for_it_is_no_error(here: Dirs) -> None:
    Path(here.state).write_text("no directory")
    keep(here)
    assert again(here) is None


def test_a_directory_that_others_can_write_to_is_not_believed(here: Dirs) -> None:
    keep(here)
    os.chmod(f"{here.state}/plans", 0o770)
    assert again(here) is None
    os.chmod(f"{here.state}/plans", 0o700)
    os.rename(f"{here.state}/plans", f"{here.state}/elsewhere")
    os.symlink("elsewhere", f"{here.state}/plans")
    assert again(here) is None


@pytest.mark.parametrize("init", [True, False])
def test_other_arguments_are_put_into_the_plan_as_if_it_had_been_made_with_them(here: Dirs, init: bool) -> None:
    def planned(*words: str) -> Ready:
        table = Table()
        if init:
            BecomeInit(paths=("/bin/echo", "/usr/bin/echo"), args=words).lower(table)
        Exec(("/bin/echo", "/usr/bin/echo"), words, ("HOSTNAME=CONTAINER-ID", "A=b"), named=True).lower(table)
        return READY.replace(program=table.program(), words=words, asked={"image": "busybox", "args": list(words)}, init=init)

    typed = ["--rm", "busybox", "echo"]
    known = plans.conditions(here, spec(here), FACTS)
    assert known is not None
    plans.remember(here, [*typed, "a", "b"], 2, known, TYPED, planned("echo", "a", "b"))
    for arguments in (["a", "b"], [], ["\udcff", "", "--rm", "c d"]):
        found = again(here, [*typed, *arguments])
        fresh = planned("echo", *arguments)
        assert found is not None and found.words == fresh.words and found.asked == fresh.asked
        assert strings(found.program) == strings(fresh.program)
    assert again(here, typed[:-1]) is None


def strings(program: Program) -> list[list[bytes]]:
    """Return the texts that each row points to: words, variables, paths."""
    shown = []
    for fields in iter_unpack(native.ROW, program.rows):
        shown += [program.blob[fields[4 + n] :].split(b"\0", fields[8 + n])[: fields[8 + n]] for n in range(3)]
    return shown


def test_an_image_s_own_command_takes_no_arguments_from_another_line(here: Dirs) -> None:
    known = plans.conditions(here, spec(here), FACTS)
    assert known is not None
    plans.remember(here, ["--rm", "busybox"], None, known, TYPED, READY)
    assert again(here, ["--rm", "busybox"]) == READY
    assert again(here, ["--rm", "busybox", "true"]) is None
