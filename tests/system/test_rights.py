"""Whom a command runs as, what it is given and what it may do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import DEFAULT_CAPS, Images, cli, inside, running, said, shell

import pybox
from pybox.spec import Spec


def spec(*args: str, **fields: object) -> Spec:
    return Spec("busybox", args, **fields)  # type: ignore[arg-type]


# --- the command's surroundings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "0 0 0 / 0 0 0 /"),
        ("alice", "1000 1000 1000 / 1000 1000 1000 / 10 44"),
        ("1000", "1000 1000 1000 / 1000 1000 1000 / 10 44"),
        ("alice:wheel", "1000 1000 1000 / 10 10 10 /"),
        ("alice:7", "1000 1000 1000 / 7 7 7 /"),
        ("4711", "4711 4711 4711 / 0 0 0 /"),
        ("4711:4712", "4711 4711 4711 / 4712 4712 4712 /"),
        ("4294967294:4294967294", " / ".join(["4294967294 4294967294 4294967294"] * 2) + " /"),
    ],
)
def test_the_user_is_resolved_from_the_image(user: str, expected: str) -> None:
    assert inside("ids", user=user).rstrip() == expected.rstrip()


@pytest.mark.parametrize(("user", "word"), [("bob", "'bob'"), ("alice:nogroup", "'nogroup'")])
def test_an_unknown_user_is_refused(user: str, word: str) -> None:
    with pytest.raises(pybox.SpecError, match=f"no (user|group) {word}"):
        shell("true", user=user)


def test_home_is_the_users() -> None:
    assert said(shell("echo $HOME", user="alice")) == "/home/alice"
    assert said(shell("echo $HOME")) == "/root"
    assert said(shell("echo $HOME", user="4711")) == "/"


def test_the_working_directory_is_made_if_missing() -> None:
    assert said(shell("pwd", workdir="/home/alice")) == "/home/alice"
    assert said(shell("pwd; ls -A", workdir="/not/yet/there")) == "/not/yet/there"
    assert said(shell("pwd")) == "/"


def test_only_the_asked_for_variables_are_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the host")
    result = shell("env", env={"A": "1", "EMPTY": "", "SPACES": "a b"})
    found = dict(line.split("=", 1) for line in said(result).splitlines())
    assert {name: found.pop(name) for name in ("A", "EMPTY", "SPACES", "HOME", "HOSTNAME")} == {
        "A": "1", "EMPTY": "", "SPACES": "a b", "HOME": "/root", "HOSTNAME": result.id,
    }  # fmt: skip
    assert set(found) <= {"PATH", "PWD", "SHLVL", "OLDPWD"}


def test_env_and_env_file_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    (tmp_path / "env").write_text("# a comment\n\nA=file\nB=two words # kept\nINHERITED\nABSENT\n")
    done = cli("run", "--rm", "--env-file", str(tmp_path / "env"), "-e", "A=option", "-e", "INHERITED", "busybox", "env")
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert (found["A"], found["B"], found["INHERITED"]) == ("option", "two words # kept", "yes")
    assert "ABSENT" not in found


def test_a_wrong_line_of_an_env_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("GOOD=1\nnot a variable\n")
    done = cli("run", "--rm", "--env-file", str(tmp_path / "env"), "busybox", "env")
    assert done.returncode == 125 and f"{tmp_path}/env:2" in done.stderr


def test_entrypoint_replaces_the_images(image: Images) -> None:
    from pybox.image.model import ImageConfig

    name = image(
        None, ImageConfig(entrypoint=("echo", "image"), cmd=("default",), env=("FROM=image",), workdir="/var", user="alice")
    )
    assert said(pybox.run(name)) == "image default"
    assert said(pybox.run(name, ["mine"])) == "image mine"
    assert said(pybox.run(name, ["-c", "echo $FROM $PWD $(id -u)"], entrypoint="sh")) == "image /var 1000"
    assert said(pybox.run(name, ["echo", "plain"], entrypoint=[])) == "plain"
    done = cli("run", "--rm", "--entrypoint", "", name, "echo", "plain")
    assert done.stdout == "plain\n"


def test_ulimits_hold_and_are_refused_by_name() -> None:
    assert said(shell("ulimit -n; ulimit -Hn; ulimit -c", ulimits=["nofile=100:200", "core=0"])).split() == ["100", "200", "0"]
    with pytest.raises(pybox.SpecError, match="above the hard one"):
        shell("true", ulimits=["nofile=2:1"])


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_the_umask_is_022_whatever_the_callers(mask: int) -> None:
    before = os.umask(mask)
    try:
        assert said(shell("umask; touch /tmp/f; mkdir /new; stat -c %a /tmp/f /new / /dev /dev/shm /etc/hosts /var")).split() == [
            "0022", "644", "755", "755", "755", "1777", "644", "755",
        ]  # fmt: skip
    finally:
        os.umask(before)


# --- rights ------------------------------------------------------------------------------------------------------------------


def caps(result: pybox.Result) -> dict[str, int]:
    return {line.split()[0].rstrip(":"): int(line.split()[1], 16) for line in said(result).splitlines()}


def test_capabilities_are_the_default_eleven_and_none_is_inheritable() -> None:
    found = caps(shell("grep Cap /proc/self/status"))
    assert found == {"CapInh": 0, "CapPrm": DEFAULT_CAPS, "CapEff": DEFAULT_CAPS, "CapBnd": DEFAULT_CAPS, "CapAmb": 0}


def test_capabilities_can_be_added_and_dropped() -> None:
    net_raw = 1 << 13
    assert caps(shell("grep Cap /proc/self/status", cap_add=["net_raw"]))["CapEff"] == DEFAULT_CAPS | net_raw
    assert caps(shell("grep Cap /proc/self/status", cap_drop=["ALL"])) == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0
    )
    only = caps(shell("grep Cap /proc/self/status", cap_drop=["ALL"], cap_add=["NET_RAW"]))
    assert only["CapBnd"] == only["CapEff"] == net_raw
    assert caps(shell("grep Cap /proc/self/status", cap_drop=["CHOWN"]))["CapBnd"] == DEFAULT_CAPS & ~1


def test_another_user_than_root_has_no_capabilities() -> None:
    found = caps(shell("grep Cap /proc/self/status", user="alice"))
    assert (found["CapEff"], found["CapPrm"], found["CapAmb"], found["CapInh"]) == (0, 0, 0, 0)


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(pybox.SpecError, match="no such capability"):
        shell("true", cap_add=["CAP_EVERYTHING"])


def suid(root: Path) -> None:
    os.chmod(root / "bin/inside", 0o4755)


def test_set_user_id_programs_work_only_when_new_privileges_are_allowed(image: Images) -> None:
    name = image(suid)
    assert said(pybox.run(name, ["inside", "ids"], user="alice")).startswith("1000 1000 1000 /")
    assert said(pybox.run(name, ["inside", "ids"], user="alice", no_new_privs=False)).startswith("1000 0 0 /")
    done = cli("run", "--rm", "-u", "alice", "--security-opt", "no-new-privileges=false", name, "inside", "ids")
    assert done.stdout.startswith("1000 0 0 /")


def test_no_new_privs_and_seccomp_are_on() -> None:
    assert said(shell("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status")).split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]
    assert said(shell("grep '^Seccomp:' /proc/self/status", seccomp="unconfined")).split() == ["Seccomp:", "0"]


def test_userns_maps_root_inside_to_nobody_outside() -> None:
    with running(spec("sleep", "1000", userns=True)) as (seen, _, _):
        assert seen.file("uid_map").split() == ["0", "2000000000", "65536"]
        assert seen.file("gid_map").split() == ["0", "2000000000", "65536"]
        assert os.stat(f"/proc/{seen.pid}").st_uid == 2000000000


def test_userns_shows_the_images_files_as_roots_and_the_new_ones_outside_as_its_own(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    script = "stat -c '%u %g' / /etc/passwd /home/alice /new /v/f; id -u; grep CapEff /proc/self/status"
    found = said(shell(f"touch /new /v/f; {script}", userns=True, mounts={str(tmp_path): "/v"})).splitlines()
    assert found == ["0 0", "0 0", "1000 1000", "0 0", "0 0", "0", f"CapEff:\t{DEFAULT_CAPS:016x}"]
    assert os.stat(tmp_path / "f").st_uid == 2000000000


def test_userns_does_not_make_the_hosts_files_writable(tmp_path: Path) -> None:
    (tmp_path / "roots").write_text("untouched")
    (tmp_path / "roots").chmod(0o644)
    assert b"Permission denied" in (shell("echo x >/v/roots", userns=True, mounts={str(tmp_path): "/v"}).stderr or b"")
    assert (tmp_path / "roots").read_text() == "untouched"
