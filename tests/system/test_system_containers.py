"""System containers: an image's own init boots, starts services again, is entered, and shuts down when it is asked to."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import CONTROLLERS, HERE, PURE_V2, Images, cli, eventually

from pybox import api, dirs
from pybox.errors import ImageError
from pybox.image import store as shelf
from pybox.image.importing import import_
from pybox.image.model import Image, ImageConfig
from pybox.kernel.namespaces import FIRST_ID
from pybox.seen import Seen
from pybox.spec import Spec

OUTER = dirs.current()  # the store that the tests were started with: images that take too long to make are looked for there
INIT = ImageConfig(cmd=("/sbin/init",))

INITTAB = """\
::sysinit:/bin/sh -c 'echo up by $0 in $container; echo >>/var/boots'
::respawn:/bin/sh /etc/service
::shutdown:/bin/sh -c 'echo saying goodbye; echo >>/var/goodbyes'
"""
SERVICE = "echo service begins\nexec sleep 100000\n"


def log(identity: str) -> str:
    """Return what a container has written, without the head of each line."""
    path = Path(dirs.current().store) / "containers" / identity / "log"
    return "\n".join(line.split(" ", 3)[-1].strip("\r") for line in path.read_bytes().decode(errors="replace").split("\n"))


def exec_(identity: str, script: str) -> str:
    """Return what a shell script says in a container."""
    done = cli("exec", identity, "sh", "-c", script)
    assert done.returncode == 0, done
    return done.stdout.strip()


def found(identity: str) -> dict[str, object]:
    """Return what inspect shows of a container."""
    (shown,) = json.loads(cli("inspect", identity).stdout)
    assert isinstance(shown, dict)
    return shown


@contextmanager
def booted(*words: str) -> Iterator[str]:
    """Start a system container; it is forgotten at the end."""
    done = cli("run", "-d", "--system", *words)
    assert done.returncode == 0, done.stderr
    identity = done.stdout.strip()
    try:
        yield identity
    finally:
        cli("rm", "-f", identity)


@pytest.fixture(scope="module")
def busybox_init(image: Images) -> str:
    """An image whose init is busybox's, with one service."""

    def change(root: Path) -> None:
        (root / "sbin").symlink_to("bin")
        (root / "etc/inittab").write_text(INITTAB)
        (root / "etc/service").write_text(SERVICE)

    return image(change, INIT)


def test_busybox_init_boots_respawns_reaps_and_shuts_down(busybox_init: str) -> None:
    with booted(busybox_init) as identity:
        assert eventually(lambda: "service begins" in log(identity))
        assert "up by /bin/sh in pybox" in log(identity)  # its console is the log
        assert exec_(identity, "readlink /proc/1/exe; cat /proc/1/comm") == "/bin/busybox\ninit"
        exec_(identity, "kill $(pidof sleep)")
        assert eventually(lambda: log(identity).count("service begins") == 2)
        # an orphan becomes the init's child, and no zombie stays
        exec_(identity, "(sh -c 'sleep 0.1; exit 3' & ) ; sleep 0.4")
        assert eventually(lambda: exec_(identity, "grep -l 'State:.Z' /proc/[0-9]*/status || true") == "")

        assert cli("stop", "-t", "600", identity).returncode == 0
        assert "saying goodbye" in log(identity)
        assert (found(identity)["reason"], found(identity)["exit_code"]) == ("exit", 0)

        assert cli("start", identity).returncode == 0
        assert eventually(lambda: exec_(identity, "cat /var/boots | wc -l; cat /var/goodbyes | wc -l").split() == ["2", "1"])


def test_its_power_over_mounts_and_groups_is_over_its_own(busybox_init: str, tmp_path: Path) -> None:
    secret = tmp_path / "roots"
    secret.write_text("x")
    secret.chmod(0o600)
    with booted("-v", f"{secret}:/roots", busybox_init) as identity:
        assert exec_(identity, "mkdir /mnt; mount -t tmpfs none /mnt; touch /mnt/x; ls /mnt") == "x"
        assert (
            exec_(identity, "mkdir /sys/fs/cgroup/a; cat /proc/1/cgroup | grep ^0:; ls -d /sys/fs/cgroup/a")
            == "0::/\n/sys/fs/cgroup/a"
        )
        assert exec_(identity, "cat /proc/self/cgroup | grep ^0:") == "0::/pybox-exec"
        # root inside is nobody outside: the host's files, settings and devices stay as they are, whatever is mounted or unmounted
        assert "denied" in exec_(identity, "cat /roots 2>&1 || true")
        assert "denied" in exec_(identity, "umount /proc/sys; (echo 1 >/proc/sys/kernel/panic) 2>&1 || true")
        assert "not permitted" in exec_(identity, "mknod /dev/mem2 c 1 1 2>&1 || true")
        # and its rights are no more than those of its process 1
        assert exec_(identity, "grep CapBnd /proc/self/status") == exec_(identity, "grep CapBnd /proc/1/status")


@pytest.mark.skipif(not PURE_V2 or "memory" not in CONTROLLERS, reason="limits in the cgroup2 tree are of cgroup v2 hosts")
def test_what_it_writes_in_its_group_does_not_lift_its_limits(busybox_init: str) -> None:
    with booted("-m", "64M", "--pids-limit", "50", busybox_init) as identity:
        assert "memory" in exec_(identity, "cat /sys/fs/cgroup/cgroup.controllers")
        exec_(identity, "echo max >/sys/fs/cgroup/memory.max; echo max >/sys/fs/cgroup/pids.max")
        group = next(Path("/sys/fs/cgroup").glob(f"pybox-{identity}*"))
        assert (group / "memory.max").read_text() == f"{64 << 20}\n"
        assert (group / "pids.max").read_text() == "50\n"
        exec_(identity, "for n in $(seq 100); do sleep 5 & done 2>/dev/null; true")
        assert int((group / "pids.current").read_text()) <= 50


def test_what_was_asked_for_by_name_stays(busybox_init: str) -> None:
    options = ("--tmpfs", "/run:size=1m", "-e", "container=mine", "--stop-signal", "TERM", "--cap-drop", "NET_RAW")
    with booted(*options, busybox_init) as identity:
        assert "size=1024k" in exec_(identity, "grep ' /run ' /proc/mounts")
        assert exec_(identity, "tr '\\0' '\\n' </proc/1/environ | grep ^container=") == "container=mine"
        assert int(exec_(identity, "grep CapBnd /proc/self/status").split()[1], 16) & 1 << 13 == 0
        assert cli("stop", "-t", "600", identity).returncode == 0
        assert "system reboot" in log(identity)  # what TERM means to busybox init; there is nothing to reboot
        assert found(identity)["exit_code"] == 0


def test_a_supervisor_of_services_starts_one_again_and_stops_them_all(image: Images) -> None:
    if not shutil.which("s6-svscan"):
        pytest.skip("no s6 (Debian package s6)")

    def change(root: Path) -> None:
        (root / "sbin").symlink_to("bin")
        for program in ("s6-svscan", "s6-supervise"):
            path = shutil.which(program)
            assert path
            shutil.copy(path, root / "usr/bin" / program)
            for library in re.findall(
                r"(/\S+)", subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
            ):
                (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, root / library.lstrip("/"))
        for name in ("one", "two"):
            (root / "service" / name).mkdir(parents=True)
            (root / "service" / name / "run").write_text(f"#!/bin/sh\necho {name} begins\nexec sleep 10000{name == 'two':d}\n")
            (root / "service" / name / "run").chmod(0o755)

    with booted(image(change, ImageConfig(cmd=("s6-svscan", "/service")))) as identity:
        assert eventually(lambda: {"one begins", "two begins"} <= set(log(identity).splitlines()))
        exec_(identity, "kill -9 $(ps | awk '/sleep 10000[1]/ {print $1}')")
        assert eventually(lambda: log(identity).count("two begins") == 2)
        assert log(identity).count("one begins") == 1
        assert cli("stop", "-t", "600", identity).returncode == 0
        assert (found(identity)["reason"], found(identity)["exit_code"]) == ("exit", 0)


def test_the_kernel_shows_each_step_of_its_plan() -> None:
    with booted("busybox", "sleep", "100000") as identity:
        spec = Spec("busybox", ("sleep", "100000"), system=True, userns=True, no_new_privs=False)
        plan = api._SHARED.runtime().planner.plan(spec, keep=True, managed=True).plan
        pid = found(identity)["pid"]
        assert isinstance(pid, int)
        seen = Seen(pid, identity)
        assert [step.describe() for _, _, step in plan.steps() if not step.check(seen)] == []


def test_an_init_that_can_not_be_process_1_is_refused(busybox_init: str) -> None:
    done = cli("run", "--system", "--pid", "host", busybox_init)
    assert (done.returncode, done.stdout) == (125, "")
    assert "can't be together with --system" in done.stderr


# --- systemd -----------------------------------------------------------------------------------------------------------------


def _made() -> Image | None:
    try:
        return shelf.find(OUTER, "debian-system")
    except ImageError:
        return None


@pytest.fixture(scope="module")
def debian_system(store: dirs.Dirs) -> str:
    """The image that images/debian-system/build makes, which takes half a minute: it is looked for, not made."""
    made = _made()
    if made is None:
        pytest.skip(f"no image debian-system in {OUTER.store} (images/debian-system/build)")
    import_(store, "debian-system", made.layers[0], run=made.config)
    return "debian-system"


def test_systemd_boots_runs_a_unit_and_shuts_down(debian_system: str) -> None:
    with booted(debian_system) as identity:

        def state() -> str:
            return cli("exec", identity, "systemctl", "is-system-running").stdout.strip()

        assert eventually(lambda: state() in ("running", "degraded"))
        assert cli("exec", identity, "systemctl", "--failed", "--no-legend").stdout == ""
        said = exec_(
            identity, "systemd-run --quiet --wait --pipe -p User=nobody -p PrivateTmp=yes sh -c 'id -un; cat /proc/self/cgroup'"
        )
        assert said.splitlines()[0] == "nobody"
        assert re.search(r"^0::/system.slice/run-.*\.service$", said, re.MULTILINE)
        assert cli("stop", "-t", "600", identity).returncode == 0
        assert "Reached target" in log(identity)
        assert (found(identity)["reason"], found(identity)["exit_code"]) == ("exit", 0)


# No pybox inside of a container that has parts of /proc covered: its own root may uncover them.
UNCOVER = """\
[Unit]
Before=pybox.service
[Service]
Type=oneshot
ExecStart=sh -c "umount -l $$(grep -Eo ' /(proc|sys)/[^ ]+' /proc/self/mountinfo | grep -v cgroup)"
[Install]
WantedBy=multi-user.target
"""
INNER = """\
trap 'echo heard TERM' TERM
trap 'sleep 0.1; echo heard USR1; exit 0' USR1
echo begins
while :; do sleep 0.02; done
"""


def installed(place: Path, image: Path) -> Iterator[str]:
    """Yield the options that show this pybox, its Python and its unit in a container, at the paths that they have after `make install`."""
    python, repository = Path(sys.executable).resolve(), HERE.parent.parent
    for folder in ("bin", "lib/systemd/system"):
        (place / folder).mkdir(parents=True)
    binding = next(Path(sysconfig.get_path("platlib")).glob("_cffi_backend.*"))
    launcher = subprocess.run(
        [repository / ".ci/launcher", python, "/usr/local/lib/pybox"], capture_output=True, check=True
    ).stdout
    (place / "bin/pybox").write_bytes(launcher)
    (place / "bin/pybox").chmod(0o755)
    unit = (repository / "docs/pybox.service").read_text().replace("@PREFIX@", "/usr/local")
    (place / "lib/systemd/system/pybox.service").write_text(unit)
    (place / "lib/systemd/system/uncover.service").write_text(UNCOVER)
    shown = {repository / "pybox": "/usr/local/lib/pybox/pybox", binding: f"/usr/local/lib/pybox/{binding.name}"}
    shown |= {place / "bin": "/usr/local/bin", place / "lib/systemd": "/usr/local/lib/systemd"}
    shown |= {python: str(python), Path(sysconfig.get_path("stdlib")): sysconfig.get_path("stdlib")}
    needed = subprocess.run(["ldd", python, binding], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"=> (/\S+)", needed):
        if not (image / library.lstrip("/")).exists():
            shown[Path(library).resolve()] = library
    for path, target in shown.items():
        yield from ("-v", f"{path}:{target}:ro")


def test_the_unit_starts_at_each_boot_what_is_to_run_always_and_ends_it_by_its_stop_signal(
    debian_system: str, store: dirs.Dirs, tree: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"  # what the machine's /var/lib/pybox is on: no writable layer can be on another one
    disk.mkdir()
    os.chown(disk, FIRST_ID, FIRST_ID)
    subprocess.run(["tar", "-C", tree, "-cf", tmp_path / "tree.tar", "."], check=True)
    program = installed(tmp_path / "prefix", Path(shelf.find(store, debian_system).layers[0]))

    def said() -> list[str]:
        (path,) = disk.glob("containers/*/log")
        return [line.split(" ", 3)[-1] for line in path.read_text().splitlines()]

    with booted(*program, "-v", f"{disk}:/var/lib/pybox", "-v", f"{tmp_path}/tree.tar:/tree.tar:ro", debian_system) as box:

        def active() -> bool:
            return cli("exec", box, "systemctl", "is-active", "pybox").stdout == "active\n"

        assert eventually(lambda: cli("exec", box, "systemctl", "is-system-running").stdout in ("running\n", "degraded\n"))
        assert exec_(box, "systemd-analyze verify pybox.service 2>&1") == ""
        exec_(box, "systemctl enable --now --quiet uncover; pybox import busybox /tree.tar --cmd sh")
        exec_(box, f'pybox run -d --name inner --restart always --stop-signal USR1 busybox sh -c "{INNER}"')
        assert eventually(lambda: said() == ["begins"])
        exec_(box, "pybox stop inner")

        exec_(box, "systemctl enable --now --quiet pybox")
        assert active()
        assert exec_(box, "cat /proc/$(pidof pybox-monitor)/cgroup | grep ^0:") == "0::/system.slice/pybox.service"
        run = ["begins", "heard USR1"]
        assert eventually(lambda: said() == [*run, "begins"])
        exec_(box, "systemctl stop pybox")
        assert said() == run * 2
        assert exec_(box, "pybox inspect -f exit_code inner; systemctl is-active pybox || true").split() == ["0", "inactive"]

        exec_(box, "systemctl start pybox")
        assert eventually(lambda: said() == [*run * 2, "begins"])
        assert cli("restart", "-t", "600", box).returncode == 0
        assert said()[:6] == run * 3
        assert eventually(lambda: said() == [*run * 3, "begins"])
        assert eventually(active)
        assert cli("stop", "-t", "600", box).returncode == 0
        assert said() == run * 4
