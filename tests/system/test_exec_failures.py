"""The kernel has three errnos for the ways in which a program can't be executed; pybox names each way, and leaves nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import PYBOX, TIMEOUT, Images, cli, said, shell

import pybox
from pybox.failures import ExecError, ProgramNotFound
from pybox.spec import Mount


def elf(machine: int) -> bytes:
    """Return the beginning of a 64-bit little-endian executable for a machine; elf(5)."""
    head = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    head += (2).to_bytes(2, "little") + machine.to_bytes(2, "little") + (1).to_bytes(4, "little")
    return head + bytes(8) + (64).to_bytes(8, "little") + bytes(8 + 4) + (64).to_bytes(2, "little") + bytes(10) + bytes(64)


def dynamic_elf(loader: bytes) -> bytes:
    """Return an executable for this machine that asks for a loader."""
    from pybox.failures import _MACHINES

    number = next(number for number, name in _MACHINES.items() if name == os.uname().machine)
    head = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    head += (2).to_bytes(2, "little") + number.to_bytes(2, "little") + (1).to_bytes(4, "little")
    head += (0x400000).to_bytes(8, "little") + (64).to_bytes(8, "little") + bytes(8) + bytes(4)
    head += (64).to_bytes(2, "little") + (56).to_bytes(2, "little") + (1).to_bytes(2, "little") + bytes(6)
    text = loader + b"\0"
    entry = (3).to_bytes(4, "little") + (4).to_bytes(4, "little") + (120).to_bytes(8, "little") + bytes(16)
    entry += len(text).to_bytes(8, "little") * 2 + (1).to_bytes(8, "little")
    return head + entry + text


FOREIGN = 183 if os.uname().machine != "aarch64" else 62

CASES: dict[str, tuple[Callable[[Path], object], str, type[ExecError], str]] = {
    # name: (make it, cause, exception, what the message says)
    "absent": (lambda p: None, "missing", ProgramNotFound, "no such file or directory"),
    "no-x": (lambda p: (p.write_bytes(b"#!/bin/sh\n"), p.chmod(0o644)), "not-executable", ExecError, "no x permission"),
    "directory": (lambda p: p.mkdir(), "directory", ExecError, "it is a directory"),
    "foreign": (lambda p: p.write_bytes(elf(FOREIGN)), "architecture", ExecError, "this machine is " + os.uname().machine),
    "no-loader": (lambda p: p.write_bytes(dynamic_elf(b"/lib/ld-none.so.9")), "loader-missing", ProgramNotFound, "/lib/ld-none.so.9"),
    "no-interpreter": (lambda p: p.write_bytes(b"#!/usr/bin/none -x\n"), "interpreter-missing", ProgramNotFound, "/usr/bin/none"),
    "crlf": (lambda p: p.write_bytes(b"#!/bin/sh\r\necho hi\r\n"), "crlf", ProgramNotFound, "CR LF"),
    "no-shebang": (lambda p: p.write_bytes(b"echo hi\n"), "format", ExecError, "neither a program nor a script"),
    "empty": (lambda p: p.write_bytes(b""), "empty", ExecError, "the file is empty"),
    "broken-interpreter": (lambda p: p.write_bytes(b"#!/etc/passwd\n"), "interpreter-not-executable", ExecError, "/etc/passwd"),
}  # fmt: skip
HINTED = {"absent", "no-x", "no-loader", "crlf", "no-shebang"}


@pytest.fixture(scope="module")
def broken(image: Images) -> str:
    """An image with /broken/NAME for each case."""

    def make(root: Path) -> None:
        (root / "broken").mkdir()
        for name, (write, *_) in CASES.items():
            path = root / "broken" / name
            write(path)
            if path.is_file() and name != "no-x":
                path.chmod(0o755)

    return image(make)


@pytest.mark.parametrize("init", [True, False], ids=["init", "no-init"])
@pytest.mark.parametrize("name", CASES)
def test_each_failure_is_named(broken: str, name: str, init: bool) -> None:
    _, cause, kind, message = CASES[name]
    with pytest.raises(ExecError) as caught:
        pybox.run(broken, [f"/broken/{name}"], init=init)
    assert (type(caught.value), caught.value.cause) == (kind, cause)
    assert message in caught.value.message and f"/broken/{name}" in caught.value.message
    assert (caught.value.hint is not None) == (name in HINTED)


@pytest.mark.parametrize("init", ["--init", "--no-init"])
@pytest.mark.parametrize("name", CASES)
def test_the_command_line_ends_with_126_or_127(broken: str, name: str, init: str) -> None:
    _, _, kind, message = CASES[name]
    done = cli("run", init, broken, f"/broken/{name}")  # without --rm: what never ran is not listed
    assert done.returncode == (127 if kind is ProgramNotFound else 126)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("pybox: error: cannot execute") and message in lines[0]
    assert [line.startswith("pybox: hint: ") for line in lines[1:]] == [True] * (name in HINTED)
    assert cli("ps", "-a", "-q").stdout == ""


@pytest.mark.parametrize("init", [True, False], ids=["init", "no-init"])
def test_a_file_system_mounted_noexec_is_named(init: bool, tmp_path: Path) -> None:
    script = (
        "mount -t tmpfs -o noexec tmpfs $0 && cd $0 && echo '#!/bin/sh' >tool && chmod 755 tool && "
        f"exec {' '.join(PYBOX)} run --rm {'' if init else '--no-init'} -v $0:/v busybox /v/tool"
    )
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script, tmp_path], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 126 and "/v/tool: its file system is mounted noexec" in done.stderr
    assert "hint: for a tmpfs: --tmpfs DST:exec" in done.stderr


@pytest.mark.parametrize("init", [True, False], ids=["init", "no-init"])
def test_a_name_that_no_directory_of_path_has_is_not_found(init: bool) -> None:
    with pytest.raises(
        ProgramNotFound, match="cannot execute nothing-like-this: no such file or directory in the container's PATH"
    ):
        pybox.run("busybox", ["nothing-like-this"], init=init)


@pytest.mark.parametrize("init", [True, False], ids=["init", "no-init"])
def test_path_is_searched_past_what_cannot_be_executed(image: Images, init: bool) -> None:
    def make(root: Path) -> None:
        for name in ("closed", "one", "two"):
            (root / name).mkdir()
        (root / "closed").chmod(0)
        (root / "one/tool").write_text("#!/bin/sh\necho one\n")
        (root / "two/tool").write_text("#!/bin/sh\necho two\n")
        (root / "one/tool").chmod(0o644)
        (root / "two/tool").chmod(0o755)

    name = image(make)
    env = {"PATH": "/absent:/closed:/one:/two:/bin"}
    assert said(pybox.run(name, ["tool"], env=env, init=init, user="alice")) == "two"
    with pytest.raises(ExecError, match="/one/tool: the file has no x permission"):
        pybox.run(name, ["tool"], env={"PATH": "/absent:/one"}, init=init)


@pytest.mark.parametrize("init", [True, False], ids=["init", "no-init"])
def test_a_closed_directory_on_the_way_is_named(image: Images, init: bool) -> None:
    def make(root: Path) -> None:
        (root / "closed").mkdir(mode=0o700)

    with pytest.raises(ExecError, match="closed to this user"):
        pybox.run(image(make), ["/closed/tool"], user="alice", init=init)


def test_a_program_without_read_permission_runs(image: Images) -> None:
    name = image(lambda root: os.chmod(root / "bin/inside", 0o711))
    assert said(pybox.run(name, ["inside", "ids"], user="alice")).startswith("1000")


def test_no_command_at_all_is_refused(image: Images) -> None:
    with pytest.raises(pybox.SpecError, match="no command given"):
        pybox.run(image(), [])
    with pytest.raises(pybox.SpecError, match="empty string"):
        shell("true", entrypoint=[""])


def test_an_absent_image_is_named_with_what_to_type_instead() -> None:
    done = cli("run", "--rm", "busyboxx", "true")
    assert done.returncode == 125 and "no image busyboxx" in done.stderr and "did you mean busybox?" in done.stderr


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_text_that_the_kernel_cannot_take_is_refused(text: str) -> None:
    for call in (
        lambda: pybox.run("busybox", ["echo", text]),
        lambda: pybox.run("busybox", ["true"], env={"A": text}),
        lambda: pybox.run("busybox", ["true"], workdir=f"/{text}"),
        lambda: pybox.run("busybox", ["true"], mounts=[Mount(f"/{text}")]),
        lambda: pybox.run("busybox", ["true"], mounts=[Mount("/v", source=f"/{text}")]),
    ):
        with pytest.raises(pybox.SpecError):
            call()


def test_bytes_that_are_not_text_pass_through() -> None:
    done = cli("run", "--rm", "busybox", "printf", "%s", os.fsdecode(b"\xff\xfe"))
    assert os.fsencode(done.stdout) == b"\xff\xfe"


def test_too_long_an_argument_is_an_error_and_no_traceback() -> None:
    with pytest.raises(pybox.PyboxError, match="Argument list too long"):
        pybox.run("busybox", ["true", "x" * (1 << 20)])
