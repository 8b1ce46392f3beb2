"""run --hpc: a command in an image believes that it was started where its caller is. As root and as a plain user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PYBOX, TIMEOUT, cli, said, start
from test_rootless import GID, UID, Person, home, pytestmark  # noqa: F401  # fixtures

import pybox


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of our own, as $HOME, with a working directory in it, where we are."""
    (tmp_path / "home/work").mkdir(parents=True)
    for name in ("TMPDIR", "SLURM_SUBMIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PWD", str(tmp_path / "home/work"))
    monkeypatch.chdir(tmp_path / "home/work")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(Path(pybox.__file__).parent.parent), os.environ.get("PYTHONPATH", ""))))
    yield tmp_path


def hpc(script: str, *options: str) -> str:
    """Return what a shell script says in a container of --hpc, which has nothing else to say."""
    done = cli("run", "--hpc", *options, "busybox", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.rstrip("\n")


def test_it_runs_where_its_caller_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    script = "pwd; id -u; id -g; umask; hostname; echo $HOME $SLURM_JOB_ID; cat /proc/net/dev | wc -l; echo here >result"
    said = hpc(script).split("\n")
    links = len(Path("/proc/net/dev").read_text().splitlines())
    umask = os.umask(0)
    os.umask(umask)
    assert said == [os.getcwd(), "0", "0", f"{umask:04o}", os.uname().nodename, f"{place}/home 42", str(links)]
    assert Path("result").read_text() == "here\n"


def test_a_plain_user_has_their_own_ids_and_no_rights(home: Path) -> None:  # noqa: F811
    person = Person(home)
    assert person.pybox("import", "hpc", str(home / "tree")).returncode == 0
    work = home / "work"
    work.mkdir()
    os.chown(work, UID, GID)
    done = subprocess.run(
        [*PYBOX, "run", "--hpc", "hpc", "sh", "-c", "id -u; id -g; pwd; umask; grep CapEff /proc/self/status; touch mine"],
        env=person.env, cwd=work, user=UID, group=GID, extra_groups=[], umask=0o027, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(UID), str(GID), str(work), "0027", "CapEff:", "0" * 16]
    made = (work / "mine").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (UID, GID, 0o640) and person.leftovers() == []


def test_the_image_keeps_its_own_path_and_the_root_can_not_be_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/nosuch")
    assert hpc("echo $PATH ${LD_PRELOAD-unset}; touch /x 2>&1 || true").split("\n") == [
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin unset",
        "touch: /x: Read-only file system",
    ]


def test_what_is_said_goes_before_what_hpc_means(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOUR", "red")
    options = ["-e", "COLOUR=blue", "-w", "/var", "--network", "none", "--hostname", "box", "--read-only=false", "-u", "alice"]
    assert hpc("echo $COLOUR; pwd; hostname; id -u", *options).split("\n") == ["blue", "/var", "box", "1000"]
    own = cli("run", "--hpc", "--tmpfs", str(place), "-w", str(place), "busybox", "ls", "-A")
    told = f"pybox: --hpc: HOME={place}/home is not shown inside: it is below {place}, where something else is mounted\n"
    assert (own.returncode, own.stdout, own.stderr) == (0, "", told)


def test_explain_shows_what_it_means_one_by_one(place: Path) -> None:
    shown = cli("explain", "--format", "json", "run", "--hpc", "busybox", "true")
    steps = [step["describe"] for step in json.loads(shown.stdout)["steps"]]
    assert f"go to {os.getcwd()}" in steps and any(step.startswith("make / read-only") for step in steps), steps
    assert not any("host name" in step for step in steps)


def test_nested_directories_are_bound_once(place: Path) -> None:
    points = [line.split()[4] for line in hpc("cat /proc/self/mountinfo").split("\n")]
    root = "/tmp" if str(place).startswith("/tmp/") else f"{place}/home"
    assert points.count(root) == 1 and os.getcwd() not in points


def test_a_working_directory_behind_a_symlink_is_there_by_both_names(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "way").symlink_to("home/work")
    monkeypatch.setenv("PWD", f"{place}/way")
    Path("here").touch()
    assert hpc(f"ls; ls {place}/way").split() == ["here", "here"]


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("HOME", "/", "the image's own is there"),
        ("HOME", "/usr/share", "the image's own is there"),
        ("TMPDIR", "/nosuch", "there is no such directory here"),
        ("HOME", "relative", "it is no absolute path"),
    ],
)
def test_a_directory_that_can_not_be_shown_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, why: str
) -> None:
    monkeypatch.setenv(variable, value)
    done = cli("run", "--hpc", "busybox", "true")
    assert (done.returncode, done.stderr) == (0, f"pybox: --hpc: {variable}={value} is not shown inside: {why}\n")


def test_the_callers_usr_does_not_hide_the_images_programs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr/bin")
    done = cli("run", "--hpc", "busybox", "sh", "-c", "pwd; ls | wc -l")
    assert done.returncode == 0 and done.stdout.split() == ["/usr/bin", "0"]
    assert done.stderr == "pybox: --hpc: the working directory /usr/bin is not shown inside: the image's own is there\n"


def test_no_place_to_work_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = cli("run", "--hpc", "--tmpfs", str(place), "busybox", "true")
    assert refused.returncode == 125 and "something else is mounted" in refused.stderr and "-w DIR" in refused.stderr
    gone = place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(pybox.SpecError, match="the working directory was removed"):
        pybox.run("busybox", ["true"], hpc=True)
    assert said(pybox.run("busybox", ["pwd"], hpc=True, workdir="/tmp")) == "/tmp"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT])
def test_what_a_batch_system_sends_reaches_the_command(place: Path, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    process = start(
        "run", "--hpc", "busybox", "sh", "-c", f"trap 'echo heard; exit 7' {name}; echo ready; while :; do sleep 0.01; done"
    )
    with process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.read() == b"heard\n" and process.wait(TIMEOUT) == 7


def test_death_by_a_signal_is_128_and_its_number(place: Path) -> None:
    assert cli("run", "--hpc", "busybox", "sh", "-c", "kill -TERM $$").returncode == 143
    assert cli("run", "--hpc", "busybox", "nosuch").returncode == 127


def test_an_exec_is_in_the_callers_place_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("run", "--hpc", "-d", "--name", "place-hpc", "busybox", "sleep", "1000", umask=0o027)
    assert done.returncode == 0, done
    monkeypatch.chdir("/")
    assert cli("exec", "place-hpc", "sh", "-c", "pwd; umask; echo $HOME").stdout.split() == [
        f"{place}/home/work",
        "0027",
        f"{place}/home",
    ]
    assert cli("rm", "-f", "place-hpc").returncode == 0


def test_an_init_has_no_callers_place() -> None:
    refused = cli("run", "--hpc", "--system", "busybox", "init")
    assert refused.returncode == 125 and "can't be together with --system" in refused.stderr


def test_nothing_is_left_and_rm_can_be_unsaid(place: Path) -> None:
    hpc("true")
    hpc("true", "--rm=false", "--name", "kept-hpc")
    assert cli("ps", "-a", "-q").stdout.count("\n") == 1
    assert cli("rm", "kept-hpc").returncode == 0


def test_from_python_too(place: Path) -> None:
    result = pybox.run("busybox", ["sh", "-c", "pwd; echo $COLOUR; cat"], input="in", hpc=True, env={"COLOUR": "blue"})
    assert said(result).split() == [os.getcwd(), "blue", "in"]
    assert said(pybox.run("busybox", ["pwd"], hpc=True, workdir="/var")) == "/var"
