"""The same as a plain user, with no help from the machine's administrator: one id without /etc/subuid, many with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import DEFAULT_CAPS, PYBOX, TIMEOUT, cli, eventually

from pybox import host

UID, GID = 65534, 65534


def _usable() -> str:
    """Return why a plain user can't make a container here, "" if one can."""
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "true"],
            user=UID,
            group=GID,
            extra_groups=[],
            capture_output=True,
            timeout=TIMEOUT,
        )
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else f"unprivileged user namespaces are off: {done.stderr.decode().strip()}"


pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or bool(_usable()), reason=_usable() if os.geteuid() == 0 else "needs root to become another"
)


class Person:
    """A plain user with a store of their own; ``run`` is `pybox WORDS` as them."""

    def __init__(self, home: Path, prefix: tuple[str, ...] = ()) -> None:
        self.home, self.prefix = home, prefix
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYBOX_STORE": f"{home}/store", "PYBOX_STATE": f"{home}/state"}
        if "PYTHONDONTWRITEBYTECODE" in os.environ:
            self.env["PYTHONDONTWRITEBYTECODE"] = "1"

    def pybox(self, *words: str) -> subprocess.CompletedProcess[str]:
        become = {} if self.prefix else {"user": UID, "group": GID, "extra_groups": []}
        return subprocess.run(
            [*self.prefix, *PYBOX, *words], env=self.env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT,
            **become,  # type: ignore[call-overload]
        )  # fmt: skip

    def run(self, *words: str) -> str:
        done = self.pybox("run", "--rm", *words)
        assert done.returncode == 0, done.stderr
        assert self.leftovers() == []
        return str(done.stdout).rstrip("\n")

    def leftovers(self) -> list[str]:
        """Return what is in the state and among the writable layers."""
        found = [f"state/{name}" for name in os.listdir(self.home / "state") if name != "names"]
        return found + [f"uppers/{name}" for name in os.listdir(self.home / "store/uppers")]


@pytest.fixture(scope="module")
def home(tree: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pybox-rootless."))
    os.chown(folder, UID, GID)
    shutil.copytree(tree, folder / "tree", symlinks=True)
    (folder / "tree/root").chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def person(home: Path) -> Person:
    made = Person(home)
    done = made.pybox("import", "busybox", str(home / "tree"))
    assert done.returncode == 0, done.stderr
    return made


def test_it_runs_without_any_subuid(person: Person) -> None:
    assert person.run("busybox", "echo", "hello") == "hello"


@pytest.mark.parametrize("init", ["--init", "--no-init"])
def test_id_ps_and_mount_show_only_the_container(person: Person, init: str) -> None:
    lines = person.run(init, "busybox", "sh", "-c", "id -u; id -g; ps -o pid,args; mount").splitlines()
    assert lines[:2] == ["0", "0"]
    processes = [line.split(None, 1) for line in lines[3:] if line.split()[0].isdigit()]
    assert [words[0] for words in processes][:1] == ["1"] and len(processes) <= 3
    mounts = [line.split() for line in lines if " on / type overlay" in line or " on /proc type proc" in line]
    assert len(mounts) == 2
    assert not any(str(person.home) in line or "ext4" in line for line in lines)


def test_root_inside_is_the_user_outside_and_nobody_else_exists(person: Person) -> None:
    assert person.run("busybox", "cat", "/proc/self/uid_map").split() == ["0", str(UID), "1"]
    assert person.run("busybox", "cat", "/proc/self/gid_map").split() == ["0", str(GID), "1"]


def test_each_step_is_shown_by_the_kernel_and_a_report_hides_whose_home_it_is(person: Person) -> None:
    done = person.pybox("report", "-o", f"{person.home}/report", "run", "--rm", "busybox", "true")
    assert done.returncode == 0, done.stderr
    page = (person.home / "report").read_text()
    assert "not shown" not in page and "not reached" not in page and f"uid inside is outside: 0 is {UID}" in page
    assert str(person.home) not in page and "~/store" in page and person.leftovers() == []


def test_2014_8989_setgroups_is_denied(person: Person) -> None:
    assert person.run("busybox", "cat", "/proc/self/setgroups") == "deny"
    assert person.run("busybox", "inside", "setgroups") == "EPERM"


def test_a_group_that_takes_rights_away_cannot_be_dropped(person: Person) -> None:
    """The file is closed to the group and open to others: who could leave the group could read it (CVE-2014-8989)."""
    path = person.home / "denied"
    path.write_text("secret")
    os.chown(path, 0, GID)
    path.chmod(0o604)
    done = person.pybox("run", "--rm", "-v", f"{path}:/denied", "busybox", "cat", "/denied")
    assert done.returncode == 1 and "Permission denied" in done.stderr


def test_capabilities_are_the_same_eleven_and_hold_only_inside(person: Person) -> None:
    found = dict(line.split(":\t") for line in person.run("busybox", "grep", "Cap", "/proc/self/status").splitlines())
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == DEFAULT_CAPS
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0


def test_files_written_to_a_volume_belong_to_the_user(person: Person) -> None:
    volume = person.home / "volume"
    volume.mkdir()
    os.chown(volume, UID, GID)
    person.run("-v", f"{volume}:/v", "busybox", "touch", "/v/f")
    assert os.stat(volume / "f").st_uid == UID


def test_the_hosts_files_are_not_writable(person: Person) -> None:
    path = person.home / "roots"
    path.write_text("untouched")
    os.chown(path, 0, 0)
    path.chmod(0o644)
    done = person.pybox("run", "--rm", "-v", f"{person.home}:/v", "busybox", "sh", "-c", "echo x >/v/roots")
    assert done.returncode == 1 and path.read_text() == "untouched"


def test_what_a_container_writes_is_gone_and_the_image_unchanged(person: Person) -> None:
    person.run("busybox", "sh", "-c", "mkdir -p /a/b/c; touch /a/b/f; rm -r /etc; chmod 0 /a/b; rm /bin/ls")
    assert person.run("busybox", "ls", "/etc/passwd") == "/etc/passwd"


def test_a_kept_container_can_be_removed(person: Person) -> None:
    done = person.pybox(
        "run", "--name", "kept", "busybox", "sh", "-c", "mkdir -p /a/b; touch /a/b/f; rm -r /etc; chmod 0 /a/b; chmod 0500 /a"
    )
    assert done.returncode == 0, done.stderr
    removed = person.pybox("rm", "kept")
    assert removed.returncode == 0, removed.stderr
    assert person.leftovers() == []


def test_dev_sys_and_masks_are_as_for_root(person: Person) -> None:
    assert person.run(
        "busybox", "sh", "-c", "echo x >/dev/null; head -c 2 /dev/zero | wc -c; test -c /dev/tty && echo tty"
    ).split() == ["2", "tty"]
    assert person.run("busybox", "sh", "-c", "ls /dev").split() == sorted(
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
    )
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list"):
        if os.path.exists(path):
            assert person.run("busybox", "cat", path) == ""
    done = person.pybox(
        "run", "--rm", "busybox", "sh", "-c", "echo x >/proc/sys/kernel/hostname; mkdir /sys/x; touch /sys/fs/cgroup/x"
    )
    assert done.returncode != 0 and "Read-only file system" in done.stderr


def test_the_host_image_runs_too(person: Person) -> None:
    assert person.run("host", "sh", "-c", "id -u; echo x >/new && cat /new").split() == ["0", "x"]


@pytest.mark.parametrize("network", ["none", "host"])
def test_both_networks_work(person: Person, network: str) -> None:
    names = person.run("--network", network, "busybox", "sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1").split()
    ours = [line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    assert sorted(names) == (["lo"] if network == "none" else sorted(ours))


@pytest.mark.parametrize("option", [("-m", "64m"), ("--pids-limit", "10"), ("--cpus", "1")], ids=" ".join)
def test_a_limit_that_cannot_be_enforced_is_refused_with_cause_and_fix(person: Person, option: tuple[str, str]) -> None:
    done = person.pybox("run", *option, "-v", f"{person.home}:/v", "busybox", "touch", "/v/ran")
    assert (
        done.returncode == 125
        and "cannot enforce --" in done.stderr
        and "hint: " in done.stderr
        and "--best-effort" in done.stderr
    )
    assert not (person.home / "ran").exists() and person.leftovers() == []


def test_best_effort_runs_without_the_limit_and_says_so(person: Person) -> None:
    import json

    status = person.home / "status.json"
    done = person.pybox("run", "--rm", "--best-effort", "-m", "64m", "--status-file", str(status), "busybox", "echo", "ran")
    assert (done.returncode, done.stdout) == (0, "ran\n") and "--memory is not enforced" in done.stderr
    assert json.loads(status.read_text())["effective"]["--memory"].startswith("none: ")


def test_a_user_that_does_not_exist_in_one_id_is_refused_with_the_way_out(person: Person) -> None:
    done = person.pybox("run", "--rm", "-u", "alice", "busybox", "id")
    assert (
        done.returncode == 125
        and "does not exist in a user namespace with 1 id" in done.stderr
        and "usermod --add-subuids" in done.stderr
    )


def test_roots_state_is_not_touched_by_a_plain_user(person: Person) -> None:
    done = person.pybox("ps", "-a")
    assert done.returncode == 0 and cli("ps", "-a").returncode == 0
    other = Person(person.home)
    other.env = {**person.env, "PYBOX_STATE": os.environ["PYBOX_STATE"], "PYBOX_STORE": os.environ["PYBOX_STORE"]}
    done = other.pybox("run", "--rm", "busybox", "true")
    assert done.returncode == 125 and done.stderr.splitlines()[-1].startswith("pybox: error: ") and "Traceback" not in done.stderr


# --- with a range of ids ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wealthy(home: Path, person: Person) -> Person:
    """The same user with subordinate ids: /etc/subuid and /etc/subgid of their own, in a private mount namespace."""
    if not shutil.which("newuidmap"):
        pytest.skip("no newuidmap (Debian package uidmap)")
    name = next(
        (line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[2] == str(UID)), ""
    )
    if not name:
        pytest.skip(f"uid {UID} has no name, which newuidmap needs")
    for file in ("subuid", "subgid"):
        (home / file).write_text(f"{name}:100000:65536\n")
        (home / file).chmod(0o644)
        if not os.path.exists(f"/etc/{file}"):
            pytest.skip(f"no /etc/{file} to mount over")
    script = f'mount --bind {home}/subuid /etc/subuid && mount --bind {home}/subgid /etc/subgid && exec setpriv --reuid {UID} --regid {GID} --clear-groups "$@"'
    prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    if subprocess.run([*prefix, "newuidmap"], capture_output=True, timeout=TIMEOUT).returncode not in (0, 1):
        pytest.skip("a private mount namespace with an /etc/subuid of its own can't be made")
    return Person(home, prefix)


def test_with_subuids_there_are_many_ids(wealthy: Person) -> None:
    assert wealthy.run("busybox", "cat", "/proc/self/uid_map").split() == ["0", str(UID), "1", "1", "100000", "65536"]
    assert wealthy.run("-u", "alice", "busybox", "inside", "ids") == "1000 1000 1000 / 1000 1000 1000 / 10 44"


def test_with_subuids_root_can_become_and_make_others(wealthy: Person) -> None:
    assert wealthy.run("busybox", "sh", "-c", "touch /f && chown 33:33 /f && stat -c '%u %g' /f") == "33 33"


def test_with_subuids_what_others_wrote_can_be_removed(wealthy: Person) -> None:
    """Directories of a subordinate id, that the user may not even look into."""
    script = "mkdir -p /d/e && touch /d/e/f && chown -R 33:33 /d && chmod 700 /d"
    try:
        wealthy.run("busybox", "sh", "-c", script)
        done = wealthy.pybox("run", "--name", "kept", "busybox", "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        removed = wealthy.pybox("rm", "kept")
        assert (removed.returncode, removed.stderr, wealthy.leftovers()) == (0, "", [])
    finally:
        for path in (*wealthy.home.glob("state/*"), *wealthy.home.glob("store/uppers/*")):  # for the tests after this one
            shutil.rmtree(path)


def test_with_subuids_setgroups_works_and_devpts_has_the_tty_group(wealthy: Person) -> None:
    assert wealthy.run("busybox", "inside", "setgroups") == "ok"
    assert "gid=100004" in wealthy.run("busybox", "grep", "devpts", "/proc/mounts") or "gid=5" in wealthy.run(
        "busybox", "grep", "devpts", "/proc/mounts"
    )


def test_containers_that_live(person: Person) -> None:
    def said(*words: str) -> str:
        done = person.pybox(*words)
        assert done.returncode == 0, done.stderr
        return str(done.stdout).strip()

    script = "echo $$ >>/n; trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"
    identity = said("run", "-d", "--name", "one", "--restart", "on-failure:1", "busybox", "sh", "-c", script)
    log = person.home / "store/containers" / identity / "log"
    for runs in (1, 2):
        assert eventually(lambda runs=runs: log.exists() and log.read_text().count("stdout F up") == runs)
        assert said("ps", "-q") == identity
        assert said("stop", "one") == "one" and said("wait", "one") == "7"
        if runs == 1:
            assert said("start", "one") == "one"
    assert said("start", "one") == "one"
    assert eventually(lambda: said("exec", "one", "sh", "-c", "wc -l </n") == "3")  # what it wrote is kept
    assert said("rename", "one", "two") == "" and said("kill", "two") == "two" and said("wait", "two") == "137"
    assert said("run", "-d", "--rm", "busybox", "true") and said("prune") == identity
    assert eventually(lambda: person.leftovers() == [])
    assert said("run", "-d", "--name", "dead", "busybox", "sleep", "60")
    (entry,) = json.loads(said("inspect", "dead"))
    os.kill(int(entry["journal"]["owner"]), signal.SIGKILL)
    assert eventually(lambda: "kept as it is" in person.pybox("gc").stdout)
    assert json.loads(said("inspect", "dead"))[0]["reason"] == "lost"
    assert said("rm", "dead") == "dead" and person.leftovers() == []


def test_what_its_filter_refuses_is_told_to_a_plain_user(person: Person) -> None:
    done = person.pybox("why-denied", "--", "run", "--rm", "busybox", "sh", "-c", "mount -t tmpfs none /tmp || exit 6")
    assert done.returncode == 6 and 'mount("none", "/tmp", "tmpfs"' in done.stderr and "--cap-add SYS_ADMIN" in done.stderr


def test_images_and_volumes_without_a_name_can_be_mounted(person: Person) -> None:
    mount = "type=image,src=busybox,dst=/m"
    script = "touch /m/x 2>&1; ls /m/bin/busybox; touch /etc/new && grep -c root: /etc/passwd"
    said = person.run("--mount", mount, "-v", "/etc", "busybox", "sh", "-c", script)
    assert said == "touch: /m/x: Read-only file system\n/m/bin/busybox\n1"
    assert os.listdir(person.home / "store/volumes") == []
    words = ("--rm", "--mount", f"{mount},rw", "busybox", "sh", "-c", "rm /m/etc/passwd && echo gone")
    done = person.pybox("run", *words)
    if host.probe().tmpfs_user_xattr:
        assert done.stdout == "gone\n", done.stderr
    else:
        assert done.returncode == 125 and "a writable image is not there for a plain user before Linux 6.6" in done.stderr
