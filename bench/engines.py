"""Engines of containers that live: pybox, podman and docker, driven by the same words.

podman (with crun) and docker (dockerd, containerd and runc) see a pure cgroup v2, as in peers.py; the daemon of docker runs in the
benchmark's own namespaces and listens on a socket in its /run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import meter
import peers

from bench import Failed

KEEPERS = {
    "pybox": ("pybox-monitor", "pybox-init"),
    "podman": ("conmon",),
    "docker": ("containerd-shim",),
}
DAEMONS = ("dockerd", "containerd")
WEB = ("/bin/httpd", "-f", "-h", "/www", "-p")


class Engine:
    """A program that understands run -d, ps, stop and rm as docker does. ``pure``: the mount namespace to be in, -1 ours."""

    options: tuple[str, ...] = ()  # more of them for every run

    def __init__(self, name: str, command: tuple[str, ...], image: str, pure: int = -1) -> None:
        self.name = name
        self.command = command
        self.image = image
        self.pure = pure
        self.keepers = KEEPERS[name]
        self.group = meter.Group(name)
        self.known: list[str] = []

    def call(self, *words: str) -> str:
        """Run a command to its end; return what it says. Raises Failed."""
        with self.group.joined(), meter.mounts_of(self.pure):
            done = subprocess.run([*self.command, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise Failed(f"{self.name} {words[0]}: {(done.stderr.strip().splitlines() or [str(done.returncode)])[-1]}")
        return done.stdout.strip()

    def spend(self, *words: str) -> float:
        """Run a command; return the milliseconds of CPU of its own, as wait4(2) tells them."""
        null = os.open("/dev/null", os.O_RDWR)
        files = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        with meter.mounts_of(self.pure):
            pid = os.posix_spawn(self.command[0], [*self.command, *words], os.environ, file_actions=files)
        os.close(null)
        _, status, usage = os.wait4(pid, 0)
        if status:
            raise Failed(f"{self.name} {words[0]}: status {status}")
        return (usage.ru_utime + usage.ru_stime) * 1000

    def sleeper(self) -> str:
        """Start a container that does nothing; return its id."""
        self.known.append(self.call("run", "-d", "--network", "none", *self.options, self.image, "/bin/sleep", "100000"))
        return self.known[-1]

    def serve(self, number: int) -> float:
        """Start a web server; return the milliseconds until its first answer. Raises Failed."""
        port = 8000 + number
        words = [*self.command, "run", "-d", "--network", "host", *self.options, self.image, *WEB, str(port)]
        with self.group.joined(), meter.mounts_of(self.pure):
            begin = time.monotonic_ns()
            starting = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        try:
            return meter.await_answer(("127.0.0.1", port), begin, 20)
        finally:
            said, wrong = starting.communicate(timeout=60)
            if starting.returncode != 0:
                raise Failed(f"{self.name} run: {wrong.strip() or starting.returncode}")
            self.known.append(said.strip())

    def clear(self) -> None:
        """Remove all containers of ours."""
        if self.known:
            self.call("rm", "-f", *self.known)
        self.known = []

    def close(self) -> None:
        """Remove what is left."""
        self.clear()
        self.group.close()


class Docker(Engine):
    """docker and the daemon behind it, whose control groups lie below /bench-docker."""

    def __init__(self, work: Path, tree: Path, pure: int) -> None:
        program, daemon = (shutil.which(name, path=peers.SEARCH) for name in ("docker", "dockerd"))
        if not program or not daemon:
            raise Failed("not installed")
        door = "unix:///run/bench-docker.sock"
        super().__init__("docker", (program, "-H", door), "localhost/busybox", pure)
        places = ("--data-root", str(work / "docker"), "--exec-root", "/run/bench-docker", "--pidfile", "/run/bench-docker.pid")
        network = ("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
        words = [daemon, *places, "--host", door, *network, "--cgroup-parent", "/bench-docker"]
        with self.group.joined(), meter.mounts_of(pure), open(work / "dockerd.log", "w") as log:
            self.daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._await()
            subprocess.run(["tar", "-C", tree, "-cf", work / "docker.tar", "."], check=True)
            self.call("import", str(work / "docker.tar"), self.image)
        except BaseException:
            self.close()
            raise

    def _await(self) -> None:
        for _ in range(100):
            try:
                self.call("version")
                return
            except Failed as why:
                if self.daemon.poll() is not None:
                    raise Failed(f"dockerd ended with status {self.daemon.returncode}: {why}") from None
            time.sleep(0.2)
        raise Failed("dockerd did not answer within 20 seconds")

    def close(self) -> None:
        try:
            if self.daemon.poll() is None:
                self.clear()
        finally:
            self.daemon.terminate()
            self.daemon.wait(30)
            self.group.close()


def pybox(prefix: Path, tree: Path) -> Engine:
    """Return the installed pybox with the image. Raises Failed."""
    command = str(prefix / "bin/pybox")
    engine = Engine("pybox", (command,), "busybox")
    engine.call("import", "busybox", str(tree))
    return engine


def podman(work: Path, tree: Path, pure: int) -> Engine:
    """Return podman, with a store of its own and the image. Raises Failed."""
    program = shutil.which("podman", path=peers.SEARCH)
    if not program:
        raise Failed("not installed")
    try:
        base = peers.podman(program, work, tree)
    except subprocess.CalledProcessError as error:
        raise Failed(f"podman import: {error.stderr.strip()}") from None
    engine = Engine("podman", base, "localhost/busybox", pure)
    engine.options = ("--cgroups", "disabled")  # crun wants to raise RLIMIT_MEMLOCK for its groups, which not every root may
    return engine
