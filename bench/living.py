"""What does a container cost while it lives? pybox, podman, docker and virtual machines, in one run.

    living.py --prefix DIR [--servers N] [--rounds N] [--write]

DIR holds an installed wheel (bin/pybox, lib/pybox). Four questions, each a table:

    memory  N idle copies of one small web server: what its own processes hold, what its looker-after holds, what the kernel holds
    start   how long from the start to the first answer over HTTP, interleaved
    exec    one more command in a container that lives, interleaved, against a foreground run
    many    some hundred containers: start, list, stop, remove, and what is left

Everybody's server is reached over TCP in the benchmark's own network namespace: containers share it (--network host), virtual
machines have a tap device. All of it dies with that namespace and those of bench.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import engines
import livingtable
import many
import meter
import peers
import vms

from bench import HERE, PYTHON, Failed, Sample, Server, enter_namespaces, measure

Kind = engines.Engine | vms.Machines
STARTS = 4  # executions per round
SHARE_OF_MACHINES = 3  # they are booted in every third round: a boot takes seconds


def kinds(prefix: Path, work: Path, tree: Path, pure: int) -> tuple[list[Kind], dict[str, str]]:
    """Prepare everything that can serve; return it, and why the absent ones can't."""
    cache = prefix.parent / "kernel"
    recipes: dict[str, Callable[[], Kind]] = {
        "pybox": lambda: engines.pybox(prefix, tree),
        "podman": lambda: engines.podman(work, tree, pure),
        "docker": lambda: engines.Docker(work, tree, pure),
        "uml": lambda: vms.Uml(work),
        "qemu": lambda: vms.Qemu(work, cache),
    }
    found, absent = [], {}
    for name, make in recipes.items():
        try:
            found.append(make())
        except (Failed, OSError, subprocess.SubprocessError) as why:
            absent[name] = str(why)
        note(f"{name}: {absent.get(name, 'ready')}")
    return found, absent


def memory(kind: Kind, servers: int) -> livingtable.Held:
    """Start all servers of one kind and let them idle; return what they hold. Raises Failed."""
    kind.serve(0)  # warm up: what is held once and for all is not the first container's
    kind.clear()
    time.sleep(1)
    held, kernel = kind.group.usage()
    daemons = {name: sum(sizes) for name, sizes in meter.pss(kind.group.processes()).items() if name in engines.DAEMONS}
    starts = [kind.serve(number) for number in range(servers)]
    time.sleep(2)
    found = meter.pss(kind.group.processes())
    held_now, kernel_now = kind.group.usage()
    own = sum(sum(sizes) for name, sizes in found.items() if name not in (*kind.keepers, *engines.DAEMONS))
    keeper = {name: sum(found.get(name, [])) for name in kind.keepers}
    guests = kind.guest_memory() if isinstance(kind, vms.Machines) else []
    kind.clear()
    return livingtable.Held(
        servers=servers,
        own=own,
        keepers=keeper,
        kernel=kernel_now - kernel,
        charged=held_now - held + kernel_now - kernel,
        daemons={name: max(size, sum(found.get(name, []))) for name, size in daemons.items()},
        guest=sum(guests),
        starts=starts,
    )


def starting(kind: Kind, rounds: list[int]) -> list[float]:
    """Start a server, take its time to the first answer, remove it. A machine is booted in some rounds only."""
    rounds[0] += 1
    if isinstance(kind, vms.Machines) and rounds[0] % SHARE_OF_MACHINES != 1:
        return []
    try:
        return [kind.serve(0)]
    finally:
        kind.clear()


def _run_in(mounts: int, words: list[str]) -> int:
    with meter.mounts_of(mounts):
        return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def executions(
    found: list[Kind], work: Path, tree: Path, pure: int, ending: ExitStack
) -> tuple[dict[str, Sample], dict[str, str]]:
    """Start a container for each engine and runtime; return how to execute one more command in it."""
    here, there = Server(PYTHON, str(HERE / "timer.py")), None
    with meter.mounts_of(pure):
        there = Server(PYTHON, str(HERE / "timer.py"))
    samples: dict[str, Sample] = {}
    absent: dict[str, str] = {}
    for kind in found:
        if isinstance(kind, engines.Engine):
            server = here if kind.pure < 0 else there
            argv = [*kind.command, "exec", kind.sleeper(), "/bin/true"]
            samples[f"{kind.name} exec"] = partial(server.times, argv=argv, count=STARTS)
            if kind.name == "pybox":
                argv = [*kind.command, "run", "--rm", "busybox", "/bin/true"]
                samples["pybox run"] = partial(server.times, argv=argv, count=STARTS)
    peers.bundle(work / "sleeper", tree, ("/bin/sleep", "100000"))
    for name, options in (("crun", ("--cgroup-manager=disabled",)), ("runc", ())):
        program = shutil.which(name, path=peers.SEARCH)
        if not program:
            absent[f"{name} exec"] = "not installed"
            continue
        base = [program, "--root", f"/run/bench-{name}", *options]
        server = there if name in peers.PURE_V2 else here
        words = [*base, "run", "--detach", "--bundle", str(work / "sleeper"), f"bench-living-{os.getpid()}"]
        if status := _run_in(pure if name in peers.PURE_V2 else -1, words):
            absent[f"{name} exec"] = f"run --detach: status {status}"
            continue
        delete = [*base, "delete", "--force", f"bench-living-{os.getpid()}"]
        ending.callback(_run_in, pure if name in peers.PURE_V2 else -1, delete)
        argv = [*base, "exec", f"bench-living-{os.getpid()}", "/bin/true"]
        samples[f"{name} exec"] = partial(server.times, argv=argv, count=STARTS)
    return samples, absent


def pure_v2() -> int:
    """Return a mount namespace that shows a pure cgroup v2: the peers want it."""
    script = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && echo && exec sleep 100000"
    keeper = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE)
    assert keeper.stdout
    keeper.stdout.readline()
    return os.open(f"/proc/{keeper.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def note(text: str) -> None:
    """Say how far it is."""
    print(text, file=sys.stderr, flush=True)


def report(options: argparse.Namespace, prefix: Path, work: Path) -> livingtable.Report:
    """Measure everything."""
    tree = work / "busybox"
    peers.busybox_tree(tree)
    (tree / "www").mkdir()
    (tree / "www/index.html").write_text("hello\n")
    pure = pure_v2()
    load = os.getloadavg()[0]
    found, absent = kinds(prefix, work, tree, pure)
    held: dict[str, livingtable.Held] = {}
    crowds: dict[str, many.Crowd] = {}
    try:
        for kind in found:
            try:
                held[kind.name] = memory(kind, options.servers)
            except Failed as why:
                absent[kind.name] = f"memory: {why}"
            note(f"memory: {kind.name}")
        counted = {kind.name: [0] for kind in found}
        starts = measure({kind.name: partial(starting, kind, counted[kind.name]) for kind in found}, absent, options.rounds)
        note("start")
        with ExitStack() as ending:
            samples, missing = executions(found, work, tree, pure, ending)
            for sample in samples.values():
                sample()  # warm up
            absent.update(missing)
            execs = measure(samples, absent, options.rounds)
        note("exec")
        for kind in found:
            if isinstance(kind, engines.Engine):
                kind.clear()
                count = options.many if kind.name == "pybox" else options.many // 6
                crowds[kind.name] = many.crowd(kind, count)
                note(f"many: {kind.name}")
        ours = next((kind for kind in found if kind.name == "pybox"), None)
        if isinstance(ours, engines.Engine):
            crowds["pybox, as few"] = many.crowd(ours, options.many // 6)
        hows = {
            kind.name: f"{kind.size} MiB" + (f", {kind.how}" if isinstance(kind, vms.Qemu) else "")
            for kind in found
            if isinstance(kind, vms.Machines)
        }
        retried = {kind.name: kind.retried for kind in found if isinstance(kind, vms.Machines)}
    finally:
        for kind in found:
            kind.close()
    host = f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, {options.rounds} rounds, load {load:.1f}"
    return livingtable.Report(host, hows, held, starts, execs, crowds, absent, retried)


def main() -> int:
    parser = argparse.ArgumentParser(description="measure what a living container costs, beside its peers and virtual machines")
    parser.add_argument("--prefix", type=Path, required=True, help="where `make install` put pybox")
    parser.add_argument("--servers", type=int, default=30)
    parser.add_argument("--many", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument(
        "--write", action="store_true", help="also write bench/LIVING.md and the table and plot of docs/why-not-vms.md"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("must be root: the peers are measured as root")
    prefix = options.prefix.resolve()
    if os.environ.get("PYBOX_BENCH") != "inside" and shutil.which("qemu-system-x86_64", path=peers.SEARCH):
        with suppress(Failed):  # is said again where there is no network to download with
            vms.kernel(prefix.parent / "kernel")
    enter_namespaces("--net")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with peers.workplace(prefix) as work:
        measured = report(options, prefix, work)
    print(measured.markdown())
    if options.write:
        measured.write(HERE, HERE.parent / "docs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
