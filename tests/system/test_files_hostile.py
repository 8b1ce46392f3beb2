"""cp out of and into containers that change links and names meanwhile, that lie, or that would hold it up."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from harness import PURE_V2, PYBOX, Images, many
from test_files import alive, good, members, refused, tar

from pybox import dirs


def test_2018_15664_a_race_of_links_leads_no_copy_to_the_host(tmp_path: Path) -> None:
    """A directory and a link to / (and one to the canary's own directory) change places all the time, while files are copied."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_text("the host's")
    (tmp_path / "new").write_text("planted")
    script = (
        f"mkdir -p /a{canary} /dir{canary} && echo mine >/a{canary}/secret && ln -s / /b && ln -s {canary} /c && mkdir /d && "
        "echo mine >/d/secret && { inside exchange /a /b & inside exchange /d /c & }"
    )
    planted = tmp_path / "planted.tar"
    planted.write_bytes(tar(("a", b"5", "", b""), (f"a{canary}/secret", b"0", "", b"planted")))
    with alive("--rm", script=script) as container:
        copies = []
        for turn in range(3 if PURE_V2 else 40):  # the one CPU of User Mode Linux is the racers'
            copies += [
                ("cp", f"{container}:/a{canary}", str(tmp_path / f"out{turn}")),
                ("cp", str(tmp_path / "new"), f"{container}:/a{canary}/secret"),
                ("cp", f"{container}:/d/secret", str(tmp_path / f"secret{turn}")),
                ("cp", str(tmp_path / "new"), f"{container}:/d/secret"),
                ("cp", "-", f"{container}:/"),
            ]
            if turn % 8 == 0:
                copies.append(("cp", f"{container}:/", str(tmp_path / f"all{turn}")))
        ends = many(copies, stdin=str(planted))
    assert 0 in {end.returncode for end in ends if any("/a/" in word for word in end.args)}
    assert (canary / "secret").read_text() == "the host's" and os.listdir(canary) == ["secret"]
    stolen = subprocess.run(["grep", "-rl", "the host's", tmp_path], capture_output=True, text=True)
    assert stolen.stdout.split() == [str(canary / "secret")]


def test_2019_14271_nothing_of_the_container_is_loaded(tmp_path: Path, image: Images) -> None:
    """No library, name service or codec of the image's is opened by a copy, whatever it is called."""
    if not shutil.which("strace"):
        pytest.skip("no strace (Debian package strace)")

    def traps(root: Path) -> None:
        for name in (
            "usr/lib/x86_64-linux-gnu/libnss_files.so.2",
            "etc/nsswitch.conf",
            "usr/lib/python3/encodings/idna.py",
            "etc/ld.so.preload",
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("trap")

    with alive("--rm", image=image(traps)) as container:
        (tmp_path / "f").write_text("x")
        for words in (("cp", f"{container}:/home", str(tmp_path / "out")), ("cp", str(tmp_path / "f"), f"{container}:/tmp")):
            traced = subprocess.run(
                ["strace", "-f", "-qq", "-y", "-e", "trace=openat,openat2,open,execve,mmap", *PYBOX, *words], capture_output=True
            )
            assert traced.returncode == 0
            assert not [
                line for line in traced.stderr.splitlines() if b"trap" in line or b"libnss" in line or b"nsswitch" in line
            ]


def test_a_number_that_is_another_processs_by_now_is_not_taken_for_the_containers(tmp_path: Path) -> None:
    with alive("--rm") as container:
        journal = Path(dirs.current().state, container, "journal")
        first = journal.read_text().partition("\n")[0]
        journal.write_text(f"{first}\n{os.getpid()}")
        for words in (("cp", f"{container}:/etc", str(tmp_path / "out")), ("diff", container), ("export", container)):
            assert "has just ended" in refused(*words)
        assert os.listdir(tmp_path) == []


def test_a_fifo_in_the_containers_tree_holds_nobody_up(tmp_path: Path) -> None:
    with alive(script="mkfifo /tmp/p; ln -s /tmp/p /l") as container:
        good("cp", f"{container}:/tmp", str(tmp_path / "out"))
        assert stat.S_ISFIFO((tmp_path / "out/p").stat().st_mode)
        good("cp", "-L", f"{container}:/l", str(tmp_path / "followed"))
        assert stat.S_ISFIFO((tmp_path / "followed").stat().st_mode)


def test_the_kernels_files_are_not_copied(tmp_path: Path) -> None:
    with alive() as container:
        assert "kernel's own file systems" in refused("cp", f"{container}:/proc", str(tmp_path / "out"))
        assert set(members(good("cp", f"{container}:/", "-"))) >= {"./proc", "./sys", "./dev", "./bin/busybox"}
        assert not [
            name for name in members(good("cp", f"{container}:/", "-")) if name.startswith(("./proc/", "./sys/", "./dev/"))
        ]
