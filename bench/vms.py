"""The same web server in the smallest virtual machines of Debian's packages: QEMU's microvm, and User Mode Linux.

Both boot a kernel of Debian with the same initial file system (busybox, one page, five kernel modules for the one that needs
them) and no disk, and answer on a tap device. QEMU uses KVM where that really runs a kernel (it is tried), else its translator.
"""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import meter
import peers

from bench import Failed

MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_mmio",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
)
SIZES = (48, 64, 96, 128, 192)  # MiB of memory, tried from the smallest
NO_MORE = ("-display", "none", "-no-reboot", "-serial", "stdio")
TRIES = 4
PATIENCE = 40  # seconds until a machine that does not answer is given up
INIT = """#!/bin/sh
mount -t proc proc /proc
for module in virtio_ring virtio virtio_mmio failover net_failover virtio_net; do
	[ -f /modules/$module.ko ] && insmod /modules/$module.ko
done
for word in $(cat /proc/cmdline); do
	case $word in address=*) address=${word#address=} ;; esac
done
for device in eth0 vec0; do
	ifconfig $device $address netmask 255.255.255.0 up 2>/dev/null
done
ifconfig lo 127.0.0.1 up
exec httpd -f -h /www -p 80
"""


def kernel(cache: Path) -> tuple[Path, Path]:
    """Download and unpack Debian's kernel for clouds; return the image and the directory of its modules. Raises Failed."""
    try:
        said = subprocess.run(
            ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=True
        ).stdout
        package = said.split("Depends:")[1].split()[0]
        tree = cache / package
        if not tree.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", package], cwd=cache, capture_output=True, check=True)
            (archive,) = cache.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, tree], check=True)
        (image,) = tree.glob("boot/vmlinuz-*")
        (modules,) = tree.glob("lib/modules/*/kernel")
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError) as error:
        raise Failed(f"no kernel: {error}") from None
    return image, modules


def initial(work: Path, modules: Path | None) -> bytes:
    """Return the archive of the initial file system, with the modules if there are any."""
    tree = work / ("initial-qemu" if modules else "initial-uml")
    for name in ("bin", "dev", "modules", "proc", "www"):
        (tree / name).mkdir(parents=True)
    shutil.copy2(shutil.which("busybox", path=peers.SEARCH) or "/bin/busybox", tree / "bin/busybox")
    for name in ("cat", "httpd", "ifconfig", "insmod", "mount", "sh"):
        (tree / "bin" / name).symlink_to("busybox")
    for module in MODULES if modules else ():
        shutil.copy2(f"{modules}/{module}.ko", tree / "modules")
    (tree / "www/index.html").write_text("hello\n")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    return _newc(tree)


def _newc(tree: Path) -> bytes:
    """Return a tree as a cpio archive in the format that the kernel unpacks (buffer-format.rst: "newc")."""
    out = bytearray()

    def add(number: int, name: str, mode: int, data: bytes) -> None:
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        for part in (b"070701" + b"".join(b"%08X" % field for field in fields) + raw, data):
            out.extend(part + b"\0" * (-(len(out) + len(part)) % 4))

    for number, path in enumerate(sorted(tree.rglob("*")), 1):
        mode = path.lstat().st_mode
        data = os.readlink(path).encode() if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else b""
        add(number, str(path.relative_to(tree)), mode, data)
    add(0, "TRAILER!!!", 0, b"")
    return bytes(out)


class Machines:
    """Virtual machines of one kind; each kind says in ``argv`` how one is started."""

    keepers: tuple[str, ...] = ()
    name = ""
    tap = ""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.group = meter.Group(self.name)
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.retried = 0  # boots that had to be tried again
        self.size = 0
        try:
            self.size = self._smallest()
        except BaseException:
            self.close()
            raise

    def argv(self, number: int, size: int) -> list[str]:
        raise NotImplementedError

    def _smallest(self) -> int:
        for size in SIZES:
            answers = 0
            for _ in range(TRIES):
                with suppress(Failed):
                    self._boot(0, size, PATIENCE / 2)
                    answers += 1
                self.clear()
                if answers == 2:  # once may be luck, and one that hangs may be bad luck
                    return size
        raise Failed(f"serves nothing with {SIZES[-1]} MiB")

    def serve(self, number: int) -> float:
        """Boot a machine; return the milliseconds until its first answer. One that hangs is booted once more. Raises Failed."""
        try:
            return self._boot(number, self.size, PATIENCE)
        except Failed:
            self.retried += 1
            self._kill(number)
            return self._boot(number, self.size, PATIENCE)

    def _boot(self, number: int, size: int, seconds: float) -> float:
        device = f"{self.tap}{number}"
        if device not in (name for _, name in socket.if_nameindex()):
            net = self._network(number)
            for change in (f"tuntap add dev {device} mode tap", f"address add {net}.1/24 dev {device}", f"link set {device} up"):
                subprocess.run(["ip", *change.split()], check=True)
        assert number not in self.running
        words = self.argv(number, size)
        with self.group.joined(), open(self.work / f"{device}.log", "w") as log:
            begin = time.monotonic_ns()
            self.running[number] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return meter.await_answer((f"{self._network(number)}.2", 80), begin, seconds, self.running[number])

    def _network(self, number: int) -> str:
        return f"10.{99 + len(self.name)}.{number}"

    def _kill(self, number: int) -> None:
        process = self.running.pop(number)
        for pid in self.group.processes():
            with suppress(ProcessLookupError):
                if (
                    os.getsid(pid) == process.pid
                ):  # by start_new_session; UML's helpers are no children and no process group of it
                    os.kill(pid, signal.SIGKILL)
        process.wait()

    def clear(self) -> None:
        """Switch all machines off."""
        for number in list(self.running):
            self._kill(number)

    def close(self) -> None:
        """Remove what is left."""
        self.clear()
        self.group.close()

    def guest_memory(self) -> list[int]:
        """Return the bytes of each machine's own memory that are there; empty when that can't be told."""
        return []


class Qemu(Machines):
    """qemu-system-x86_64 -M microvm: no PCI, no disk, one virtio network device."""

    name, tap = "qemu", "vm"

    def __init__(self, work: Path, cache: Path) -> None:
        self.program = shutil.which("qemu-system-x86_64", path=peers.SEARCH) or ""
        if not self.program:
            raise Failed("not installed")
        self.image, modules = kernel(cache)
        self.initial = work / "initial-qemu.gz"
        self.initial.write_bytes(gzip.compress(initial(work, modules)))
        self.accel = ["-accel", "kvm", "-cpu", "host"]
        try:
            super().__init__(work)
        except Failed:
            self.accel = ["-accel", "tcg,tb-size=32", "-cpu", "max"]
            super().__init__(work)

    def _smallest(self) -> int:
        if self.accel[1] == "kvm":  # it either works at once with plenty of memory, or not at all
            try:
                self._boot(0, SIZES[-1], 5)
            finally:
                self.clear()
        return super()._smallest()

    @property
    def how(self) -> str:
        """Say with what it runs the guest's instructions."""
        return "KVM" if self.accel[1] == "kvm" else "TCG: KVM runs no ordinary kernel here"

    def argv(self, number: int, size: int) -> list[str]:
        machine = [
            self.program,
            "-M",
            "microvm,x-option-roms=off",
            *self.accel,
            "-m",
            str(size),
            "-nodefaults",
            "-no-user-config",
        ]
        words = f"console=ttyS0 quiet panic=-1 address={self._network(number)}.2"
        boot = ["-kernel", str(self.image), "-initrd", str(self.initial), "-append", words]
        tap = f"tap,id=net,ifname={self.tap}{number},script=no,downscript=no"
        return [*machine, *boot, *NO_MORE, "-netdev", tap, "-device", "virtio-net-device,netdev=net"]

    def guest_memory(self) -> list[int]:
        """Return the resident bytes of each machine's own memory."""
        return [meter.largest_mapping(process.pid, self.size << 20) for process in self.running.values()]


class Uml(Machines):
    """User Mode Linux: the kernel is a program, its memory a file on tmpfs. Needs no KVM and no translator."""

    name, tap = "uml", "um"

    def __init__(self, work: Path) -> None:
        self.program = shutil.which("linux.uml", path=peers.SEARCH) or ""
        if not self.program:
            raise Failed("not installed")
        self.initial = work / "initial-uml.cpio"
        self.initial.write_bytes(initial(work, None))
        self.boots = 0
        super().__init__(work)

    def argv(self, number: int, size: int) -> list[str]:
        self.boots += 1  # the directory of a killed machine is not taken over by the next
        place = [f"umid=bench{self.boots}", f"uml_dir={self.work}/uml/"]
        network = f"vec0:transport=tap,ifname={self.tap}{number},depth=16"
        words = ["con=null", "con0=null,fd:1", "quiet", "panic=-1", f"address={self._network(number)}.2"]
        return [self.program, f"mem={size}M", f"initrd={self.initial}", *place, network, *words]
