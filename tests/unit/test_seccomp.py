"""The door: which program a container gets, the cache before it, and what the hot path imports."""

from __future__ import annotations

import json
import os
import posix
import subprocess
import sys
from pathlib import Path
from threading import Barrier, Thread

import pytest
from bpf_simulator import decode, run

import pybox.kernel.bpf as bpf
from pybox.errors import PyboxError, SpecError
from pybox.kernel import seccomp
from pybox.kernel.seccomp import explain, program
from pybox.kernel.syscalls import numbers

NONE: frozenset[str] = frozenset()
NR = numbers("x86_64")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry per compilation."""
    seen: list[str] = []
    assemble = bpf.assemble

    def counted(policy: bpf.Policy, machine: str) -> bytes:
        seen.append(machine)
        return assemble(policy, machine)

    monkeypatch.setattr(bpf, "assemble", counted)
    return seen


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "cache" / "seccomp")


def only(store: str) -> Path:
    (path,) = Path(store).iterdir()
    return path


def test_a_second_run_takes_the_program_from_the_cache(store: str, compiles: list[str]) -> None:
    first = program(store, None, NONE, "x86_64")
    assert program(store, None, NONE, "x86_64") == first and len(compiles) == 1
    assert only(store).stat().st_mode & 0o777 == 0o600 and Path(store).stat().st_mode & 0o777 == 0o700
    assert run(decode(first), NR["read"]) == bpf.ALLOW


def test_capabilities_the_profile_does_not_ask_about_share_a_program(store: str, compiles: list[str]) -> None:
    assert program(store, None, frozenset({"CAP_CHOWN", "CAP_KILL"}), "x86_64") == program(store, None, NONE, "x86_64")
    assert len(compiles) == 1
    opened = program(store, None, frozenset({"CAP_SYS_ADMIN"}), "x86_64")
    assert run(decode(opened), NR["mount"]) == bpf.ALLOW and len(compiles) == 2
    program(store, None, NONE, "aarch64")
    assert len(compiles) == 3 and len(list(Path(store).iterdir())) == 3


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "longer", "other key", "garbage"])
def test_a_damaged_cache_file_is_replaced(store: str, compiles: list[str], damage: str) -> None:
    good = program(store, None, NONE, "x86_64")
    path = only(store)
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[-100] ^= 1
    path.write_bytes(
        {
            "truncated": data[:-8],
            "flipped": bytes(flipped),
            "empty": b"",
            "longer": data + data[-8:],
            "other key": data.replace(b"-0-x86_64", b"-1-x86_64"),
            "garbage": os.urandom(900),
        }[damage]
    )
    assert program(store, None, NONE, "x86_64") == good and len(compiles) == 2
    assert path.read_bytes() == data


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_cache_file_that_others_may_write_is_not_believed(store: str, compiles: list[str], mode: int) -> None:
    program(store, None, NONE, "x86_64")
    only(store).chmod(mode)
    program(store, None, NONE, "x86_64")
    assert len(compiles) == 2 and only(store).stat().st_mode & 0o777 == 0o600


def test_another_users_cache_file_is_not_believed(store: str, compiles: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    program(store, None, NONE, "x86_64")
    other = os.geteuid() + 1
    monkeypatch.setattr(posix, "geteuid", lambda: other)
    program(store, None, NONE, "x86_64")
    assert len(compiles) == 2


@pytest.mark.parametrize("make", ["symlink", "fifo", "directory"])
def test_what_is_not_a_file_in_the_cache_is_not_read(store: str, compiles: list[str], make: str) -> None:
    good = program(store, None, NONE, "x86_64")
    path = only(store)
    if make == "symlink":
        path.rename(path.parent.parent / "elsewhere")
        path.symlink_to(path.parent.parent / "elsewhere")
    else:
        path.unlink()
        os.mkfifo(path) if make == "fifo" else path.mkdir()
    assert program(store, None, NONE, "x86_64") == good and len(compiles) == 2
    assert only(store) == path, "a temporary file was left"


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, compiles: list[str]) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "cache", tmp_path / "file"):
        assert decode(program(str(place), None, NONE, "x86_64"))
    assert len(compiles) == 2 and (tmp_path / "file").read_text() == ""


def test_many_writers_at_once_leave_one_whole_file(store: str) -> None:
    start, made = Barrier(8), []

    def writer() -> None:
        start.wait()
        made.append(program(store, None, NONE, "x86_64"))

    threads = [Thread(target=writer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len(set(made)) == 1
    assert only(store).read_bytes().endswith(made[0])


PROFILE = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}


def test_a_profile_is_cached_by_its_text_and_not_by_its_name(store: str, tmp_path: Path, compiles: list[str]) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(PROFILE))
    assert run(decode(program(store, str(path), NONE, "x86_64")), NR["mkdir"]) == bpf.errno(13)
    path.rename(tmp_path / "q.json")
    assert run(decode(program(store, str(tmp_path / "q.json"), NONE, "x86_64")), NR["mkdir"]) == bpf.errno(13)
    assert len(compiles) == 1
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))
    assert run(decode(program(store, str(path), NONE, "x86_64")), NR["mkdir"]) == bpf.ALLOW
    program(store, str(path), frozenset({"CAP_KILL"}), "x86_64")
    assert len(compiles) == 3


def test_a_bad_profile_names_its_file_and_keeps_nothing(store: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"defaultAction": "SCMP_ACT_MAYBE"}')
    with pytest.raises(SpecError) as error:
        program(store, str(path), NONE, "x86_64")
    assert str(error.value).startswith(f"security-opt: 'seccomp={path}': defaultAction: unknown action 'SCMP_ACT_MAYBE'")
    assert not os.path.exists(store)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"\xff\xfe", "not UTF-8"),
        (b" " * ((1 << 20) + 1), "larger than 1048576 bytes"),
    ],
)
def test_an_unreadable_profile_is_one_clear_line(store: str, tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "p.json"
    if content is not None:
        path.write_bytes(content)
    for name, why in ((str(path), reason), (str(tmp_path), "Is a directory"), ("a\0b", "not a path")):
        with pytest.raises(SpecError) as error:
            program(store, name, NONE, "x86_64")
        assert str(error.value) == f"security-opt: {'seccomp=' + name!r}: {why}"
        assert error.value.hint == "a JSON profile's path, or unconfined"


def test_a_profile_too_long_for_the_kernel_is_refused(store: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    conditions = [{"index": 0, "value": n << 32 | n, "op": "SCMP_CMP_EQ"} for n in range(1, 1500)]
    path.write_text(
        json.dumps(
            {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"name": "read", "action": "SCMP_ACT_ALLOW", "args": conditions}]}
        )
    )
    with pytest.raises(SpecError, match=r"too many rules: needs \d+ instructions, the kernel takes 4096$"):
        program(store, str(path), NONE, "x86_64")


def test_a_machine_without_a_table_is_refused(store: str) -> None:
    for ask in (lambda: program(store, None, NONE, "riscv64"), lambda: explain(None, NONE, "riscv64")):
        with pytest.raises(PyboxError) as error:
            ask()
        assert (str(error.value), error.value.hint) == (
            "no seccomp profile for riscv64",
            "--security-opt seccomp=unconfined runs without one",
        )


def test_explain_reads_profiles_too(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(PROFILE))
    said = dict(explain(str(path), NONE, "aarch64"))
    assert said["mkdirat"] == "allow" and "mkdir" not in said
    assert dict(explain(str(path), NONE, "x86_64"))["mkdir"] == "EACCES"


def test_the_hot_path_imports_no_compiler_and_nothing_slow(store: str) -> None:
    program(store, None, NONE, "x86_64")
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pybox.errors import SpecError\n"
        "before = set(sys.modules)\n"
        "from pybox.kernel.seccomp import program\n"
        f"assert program({store!r}, None, frozenset(), 'x86_64')\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"binascii", "pybox.kernel", "pybox.kernel.seccomp", "pybox.paths", "pybox.version"}


def test_the_revision_is_part_of_the_cache_key(store: str, monkeypatch: pytest.MonkeyPatch, compiles: list[str]) -> None:
    program(store, None, NONE, "x86_64")
    monkeypatch.setattr(seccomp, "REVISION", "another")
    program(store, None, NONE, "x86_64")
    assert len(compiles) == 2
