"""The other runtimes: what each needs on disk and the command that runs /bin/true in the same busybox tree with it.

All get the same six namespaces and no limits. runc and crun read one bundle, with the mounts, masked paths and capabilities that
`pybox run` has by default; podman drives crun. crun, podman and lxc-execute see a pure cgroup v2: crun refuses a hybrid, and
lxc-execute is fastest there. bwrap and lxc-execute do less (no masked paths, no network loopback), and are measured as they are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CAPABILITIES = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
MASKED = "acpi asound kcore keys latency_stats sched_debug scsi timer_list timer_stats"
READ_ONLY = "bus fs irq sys sysrq-trigger"
PURE_V2 = ("crun", "lxc-execute", "podman")


@dataclass(frozen=True)
class Peer:
    """A runtime to compare with: ``argv`` runs one job; ``pure_v2`` wants a cgroup2 over /sys/fs/cgroup."""

    name: str
    argv: tuple[str, ...] = ()
    absent: str = ""  # why it can't run
    pure_v2: bool = False
    share: float = 1.0  # of the starts per round, for the slow ones


def busybox_tree(root: Path) -> None:
    """Make a root file system of Debian's static busybox, small enough that the image is not what is measured."""
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy2(shutil.which("busybox", path=SEARCH) or "/bin/busybox", root / "bin/busybox")
    applets = subprocess.run([root / "bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in applets:
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")


def bundle(where: Path, tree: Path, args: tuple[str, ...] = ("/bin/true",)) -> None:
    """Write an OCI bundle (runtime-spec config.md) for the tree, read-only."""

    def mount(kind: str, path: str, *options: str) -> dict[str, object]:
        return {"destination": path, "type": kind, "source": kind, "options": list(options)}

    held = [f"CAP_{name}" for name in CAPABILITIES.split()]
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), held),
            "noNewPrivileges": True,
        },
        "root": {"path": str(tree), "readonly": True},
        "hostname": "bench",
        "mounts": [
            mount("proc", "/proc", "nosuid", "noexec", "nodev"),
            mount("tmpfs", "/dev", "nosuid", "mode=755", "size=65536k"),
            mount("devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
            mount("tmpfs", "/dev/shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            mount("mqueue", "/dev/mqueue", "nosuid", "noexec", "nodev"),
            mount("sysfs", "/sys", "nosuid", "noexec", "nodev", "ro"),
        ],
        "linux": {
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": [f"/proc/{name}" for name in MASKED.split()] + ["/sys/firmware"],
            "readonlyPaths": [f"/proc/{name}" for name in READ_ONLY.split()],
        },
    }
    where.mkdir()
    (where / "config.json").write_text(json.dumps(config))


def podman(program: str, work: Path, tree: Path) -> tuple[str, ...]:
    """Give podman a store of its own and the image; return the start of every command. Raises CalledProcessError."""
    (work / "containers.conf").write_text(
        '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=10000:10000"]\npids_limit=0\n'
        '[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\n'
    )
    (work / "storage.conf").write_text(f'[storage]\ndriver="overlay"\ngraphroot="{work}/podman"\nrunroot="/run/bench-podman"\n')
    os.environ["CONTAINERS_CONF"] = str(work / "containers.conf")
    os.environ["CONTAINERS_STORAGE_CONF"] = str(work / "storage.conf")
    subprocess.run(["tar", "-C", tree, "-cf", work / "busybox.tar", "."], check=True)
    base = (program, "--runtime", "crun")
    load = [*base, "import", str(work / "busybox.tar"), "localhost/busybox"]
    subprocess.run(load, check=True, capture_output=True, text=True, timeout=120)
    return base


def prepare(work: Path, tree: Path) -> list[Peer]:
    """Write what the peers need below ``work``; return all of them, the absent ones with the reason."""
    bundle(work / "bundle", tree)
    (work / "lxc").mkdir()
    (work / "lxc.conf").write_text(
        f"lxc.rootfs.path = dir:{tree}\nlxc.uts.name = bench\nlxc.net.0.type = empty\n"
        "lxc.mount.auto = proc:mixed sys:ro\nlxc.autodev = 1\nlxc.cgroup.relative = 1\nlxc.pty.max = 1\nlxc.tty.max = 0\n"
    )
    config, lxc = str(work / "bundle"), str(work / "lxc")
    own = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup")
    recipes: dict[str, tuple[str, ...]] = {
        "runc": ("--root", "/run/bench-runc", "run", "--bundle", config, "bench-{n}"),
        "crun": ("--root", "/run/bench-crun", "--cgroup-manager=disabled", "run", "--bundle", config, "bench-{n}"),
        "bwrap": (*own, "--bind", str(tree), "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"),
        "lxc-execute": ("-P", lxc, "-n", "bench-{n}", "-f", f"{lxc}.conf", "--", "/bin/true"),
        "podman": ("run", "--rm", "--network", "none", "--cgroups", "disabled", "localhost/busybox", "/bin/true"),
    }
    peers = []
    for name, words in recipes.items():
        program = shutil.which(name, path=SEARCH)
        if not program:
            peers.append(Peer(name, absent="not installed"))
            continue
        start: tuple[str, ...] = (program,)
        if name == "podman":
            try:
                start = podman(program, work, tree)
            except (subprocess.SubprocessError, OSError) as error:
                said = getattr(error, "stderr", None) or str(error)
                peers.append(Peer(name, absent=f"failed: {said.strip().splitlines()[-1]}"))
                continue
        peers.append(Peer(name, (*start, *words), pure_v2=name in PURE_V2, share=0.34 if name == "podman" else 1.0))
    return peers


@contextmanager
def workplace(prefix: Path) -> Iterator[Path]:
    """Lend a directory below ``prefix`` to a measurement, with pybox's store in it; what pybox and the peers leave goes at its end."""
    before = cgroups()
    work = Path(tempfile.mkdtemp(prefix="pybox-bench.", dir=prefix))
    os.environ.update(PYBOX_STORE=str(work / "store"), PYBOX_STATE="/run/pybox")
    try:
        yield work
    finally:
        clean(work, before)


def clean(work: Path, before: frozenset[str]) -> None:
    """Remove what the peers leave: mounts below ``work`` (podman's store), and lxc's empty cgroups, which outlive namespaces."""
    with open("/proc/self/mounts") as mounts:
        for path in [line.split()[1] for line in mounts if line.split()[1].startswith(f"{work}/")]:
            subprocess.run(["umount", "--lazy", path], check=False)
    for path in sorted(cgroups() - before, key=len, reverse=True):
        with suppress(OSError):  # not empty: not ours
            os.rmdir(path)
    shutil.rmtree(work, ignore_errors=True)


def cgroups() -> frozenset[str]:
    """Return the cgroups on this machine that carry the name of a peer."""
    found = (os.path.join(where, name) for where, names, _ in os.walk("/sys/fs/cgroup") for name in names)
    return frozenset(path for path in found if os.path.basename(path).startswith(("lxc.", "bench-")))
