"""Codes are stable and each is told what it means; a cause of a user's error is blamed on this host only if its probe says so."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import pybox
from pybox import codes, probes
from pybox.cli import main
from pybox.cli.why import complain_in_json, lines, wants_json
from pybox.codes import CLASSES, CODES, of_step
from pybox.dirs import Dirs
from pybox.doctor.item import Item
from pybox.doctor.table import PROBES
from pybox.errors import ImageNotFound, PyboxError, SpecError
from pybox.explain import why
from pybox.explain.why import answer, find, step_kinds
from pybox.probes import Case
from pybox.steps.base import Step
from pybox.steps.mounts import PivotRoot

ROOT = Path(__file__).resolve().parents[2]
FORM = re.compile(r"E-[A-Z0-9_]+(-[A-Z0-9]+)*")


def case(store: str = "/s", root: bool = True, capabilities: int = (1 << 41) - 1) -> Case:
    """Return what a probe is asked about."""
    return Case(Dirs(store, f"{store}/state"), root, not root, capabilities)


def test_a_code_is_a_word_that_can_be_searched_for() -> None:
    assert all(FORM.fullmatch(name) for name in CODES)
    assert len(CODES) == len(codes.STEPS) + len(codes.EXEC) + len(codes.CLASSES)
    for code in CODES.values():
        assert code.means and code.means[0].islower() and not code.means.endswith(".")
        assert len({cause.name for cause in code.causes}) == len(code.causes)


def test_every_class_of_error_has_its_code_in_the_table() -> None:
    given = set()
    for path in (ROOT / "pybox").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and str(node.value.value).startswith("E-"):
                given.add(str(node.value.value))
    assert given == {code.name for code in CLASSES}


def test_every_step_has_codes_whatever_its_errno() -> None:
    kinds = step_kinds()
    rooms = {path.stem for path in (ROOT / "pybox" / "steps").glob("[!_]*.py")} - {"base"}
    assert {kind.__module__.rpartition(".")[2] for kind in kinds} == rooms
    for kind in kinds:
        for number in (errno.EIO, errno.EPERM, 0):
            name = of_step(kind.call, number)
            code, told, words = find(name)
            assert (code.name, kind in told) == (name, True) and FORM.fullmatch(name)
            assert (words == "") is (number == 0)


@pytest.mark.parametrize("word", ["e-mount-einval", "mount-einval", "MOUNT-EINVAL", "E-MOUNT-EINVAL"])
def test_a_code_is_found_however_it_is_typed(word: str) -> None:
    assert find(word)[0] is CODES["E-MOUNT-EINVAL"]


@pytest.mark.parametrize(
    ("word", "near"), [("E-MOUNT-EINVALL", "E-MOUNT-EINVAL"), ("E-NO-SUCH-CODE", "`pybox why`"), ("", "`pybox why`")]
)
def test_a_code_that_is_none_is_refused_with_the_nearest(word: str, near: str) -> None:
    with pytest.raises(SpecError, match="no such code") as caught:
        find(word)
    assert near in (caught.value.hint or "")


# --- the causes of what a user asked for ------------------------------------------------------------------------------------

Patch = pytest.MonkeyPatch
So = Callable[[Patch, Path], Case]


def files(patch: Patch, **texts: str) -> None:
    """Let probes see these files, by their last name, and no others."""
    patch.setattr(probes, "read", lambda path, default="": texts.get(path.rsplit("/", 1)[-1], default))


def disk(patch: Patch, free: int = 5, flags: int = 0) -> Case:
    """Let every file system look like this."""
    patch.setattr(os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 9, free, free, 9, 5, 5, flags, 255)))
    return case()


def store(patch: Patch, path: Path, *names: str) -> Case:
    """A store with files in its images."""
    (path / "images").mkdir()
    for name in names:
        (path / "images" / name).touch()
    return case(str(path))


def roots(patch: Patch, path: Path, root: bool) -> Case:
    """Root's store is there."""
    patch.setattr(probes, "_ROOTS_IMAGES", str(path))
    return case(root=root)


def access(patch: Patch, open_: bool) -> Case:
    """Every directory is open to us, or none."""
    patch.setattr(os, "access", lambda path, mode: open_)
    return case()


def network(patch: Patch, **texts: str) -> Case:
    """The kernel's and the resolver's files say so."""
    files(patch, **texts)
    return case()


ROUTE = "Iface\tDestination\neth0\t00000000\t0102A8C0\n"
SIX = "0" * 32 + " 00 " + "0" * 32 + " 00 fe800000 00000400 00000001 00000000 00000003 {}\n"
# (code, cause): (where it is so, where it is not)
CLASS_ROWS: dict[tuple[str, str], tuple[So, So]] = {
    ("E-HOST", "full"): (lambda patch, path: disk(patch, free=0), lambda patch, path: disk(patch)),
    ("E-HOST", "read-only"): (lambda patch, path: disk(patch, flags=os.ST_RDONLY), lambda patch, path: disk(patch)),
    ("E-HOST", "closed"): (lambda patch, path: access(patch, False), lambda patch, path: access(patch, True)),
    ("E-IMAGE-ABSENT", "empty-store"): (
        lambda patch, path: store(patch, path, "x.config"), lambda patch, path: store(patch, path, "x.json"),
    ),
    ("E-IMAGE-ABSENT", "roots-store"): (
        lambda patch, path: roots(patch, path, False), lambda patch, path: roots(patch, path, True),
    ),
    ("E-REGISTRY", "no-route"): (
        lambda patch, path: network(patch, route="Iface\n", ipv6_route=SIX.format("lo")),
        lambda patch, path: network(patch, route="Iface\n", ipv6_route=SIX.format("eth0")),
    ),
    ("E-REGISTRY", "no-name-server"): (
        lambda patch, path: network(patch, **{"resolv.conf": "# nameserver 1.1.1.1\n"}),
        lambda patch, path: network(patch, **{"resolv.conf": "nameserver 1.1.1.1\n"}),
    ),
    ("E-NFT", "no-nftables"): (lambda patch, path: case(capabilities=0), lambda patch, path: case()),
    # what doctor tries: its level
    ("E-LIMIT", "no-limits"): (lambda patch, path: case(), lambda patch, path: case()),
    ("E-SUBUID", "subuid"): (lambda patch, path: case(), lambda patch, path: case()),
}  # fmt: skip


@pytest.mark.parametrize("key", CLASS_ROWS, ids=" ".join)
@pytest.mark.parametrize("so", [True, False], ids=["true", "false"])
def test_a_cause_is_blamed_by_why_when_it_probes_true_and_only_then(
    key: tuple[str, str], so: bool, monkeypatch: Patch, tmp_path: Path
) -> None:
    here = CLASS_ROWS[key][0 if so else 1](monkeypatch, tmp_path)
    (cause,) = [cause for cause in CODES[key[0]].causes if cause.name == key[1]]

    def tried(item: str) -> Item:
        level = "fail" if so else "ok"
        return Item(item, item, level, "tried", "what was seen", "a loss" if so else "", "mend it" if so else "")

    verdict = why._verdict(cause, here, tried)
    assert verdict.true is so
    if cause.item:
        assert (verdict.how, verdict.fix) == ("what was seen", "mend it" if so else None)


def test_every_cause_of_a_class_has_a_row_above() -> None:
    assert {(code.name, cause.name) for code in CLASSES for cause in code.causes} == set(CLASS_ROWS)


def test_an_ipv4_default_route_is_a_route(monkeypatch: Patch) -> None:
    assert not probes.no_route(network(monkeypatch, route=ROUTE))


def test_what_doctor_tries_for_a_cause_is_one_of_its_items() -> None:
    items = {cause.item for code in CODES.values() for cause in code.causes if cause.item}
    assert items and items <= {probe.id for probe in PROBES}


def test_a_probe_asks_for_the_nearest_directory_that_is_there(tmp_path: Path) -> None:
    assert not probes.closed(f"{tmp_path}/not/yet") and not probes.read_only(f"{tmp_path}/not/yet")
    assert probes.file_system(str(tmp_path)) != ""


# --- how it is shown --------------------------------------------------------------------------------------------------------


def test_why_says_what_was_blamed_ruled_out_or_can_not_be_told(monkeypatch: Patch) -> None:
    monkeypatch.setattr(probes, "read", lambda path, default="": "0\n" if path.endswith("userns_clone") else default)
    text = "\n".join(lines(answer(Dirs("/s", "/r"), "E-CLONE3-EPERM")))
    assert (
        "probed true: unprivileged user namespaces are switched off" in text
        and "    fix     as root: sysctl kernel.unpriv" in text
    )
    assert "ruled out: AppArmor" in text and "steps   MakeUserNamespace, Clone" in text and "user_namespaces(7)" in text
    assert text.index("probed true") < text.index("ruled out")
    text = "\n".join(lines(answer(Dirs("/s", "/r"), "E-EXEC-NOT-EXECUTABLE")))
    assert "only the launch can tell: the file has no x permission\n    fix     chmod +x PATH in the image" in text
    assert "No cause is known" in "\n".join(lines(answer(Dirs("/s", "/r"), "E-PIVOT_ROOT-EIO")))


@pytest.mark.parametrize("name", [name for name, code in CODES.items() if not any(cause.item for cause in code.causes)])
def test_why_answers_for_every_code_and_its_json_is_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.dispatch(["why", name]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: {CODES[name].means}\n")
    assert main.dispatch(["why", "--format", "json", name]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["code"] == name and len(found["causes"]) == len(CODES[name].causes)


def test_why_alone_lists_the_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.dispatch(["why"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CODES)
    assert main.dispatch(["why", "--format=json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["codes"]) == list(CODES)


def test_the_code_is_in_the_line_where_why_tells_more_than_it(capfd: pytest.CaptureFixture[str]) -> None:
    main.complain(ImageNotFound("no image x"))
    main.complain(SpecError("memory", "x", "bad"))
    assert capfd.readouterr().err == "pybox: error: no image x [E-IMAGE-ABSENT]\npybox: error: memory: 'x': bad\n"


def test_an_error_says_the_same_in_python_and_in_json(capfd: pytest.CaptureFixture[str]) -> None:
    from pybox.failures import StepFailed

    error = StepFailed(PivotRoot(), errno.EINVAL, ("a cause",), "a fix")
    assert isinstance(error, pybox.PyboxError) and isinstance(error.step, Step)
    assert complain_in_json(error) == 125
    assert json.loads(capfd.readouterr().err) == {
        "schema": "pybox.error/1", "code": "E-PIVOT_ROOT-EINVAL", "message": error.message, "step": "make it the root",
        "call": "pivot_root", "errno": errno.EINVAL, "causes": ["a cause"], "fix": "a fix", "exit_code": 125,
    }  # fmt: skip
    plain = PyboxError("x")
    assert (plain.code, plain.step, plain.errno, plain.causes, plain.fix) == ("E-PYBOX", None, 0, (), None)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("images --format json", True), ("images --format=json", True), ("images", False), ("run x --format json", False),
        ("exec c p --format json", False), ("explain run x --format json", False), ("explain --format json run x", True),
        ("stats --format table json", False), ("why-denied run x --format json", False), ("why-denied --format json -- run x", True),
        ("inspect run --format json", True), ("", False),
    ],
)  # fmt: skip
def test_an_error_is_json_where_json_was_asked_for(line: str, wanted: bool) -> None:
    assert wants_json(line.split()) is wanted


def test_the_file_system_of_a_path_is_that_of_the_nearest_mount_above(monkeypatch: Patch) -> None:
    line = "1 1 0:1 / {} rw - {} none rw\n"
    mounts = (("/", "ext4"), (r"/a\040b", "tmpfs"), ("/data", "nfs"), ("/data", "xfs"))
    files(monkeypatch, mountinfo="".join(line.format(*each) for each in mounts))
    found = [probes.file_system(path) for path in ("/x", "/a b/c", "/data", "/database")]
    assert found == ["ext4", "tmpfs", "xfs", "ext4"]
