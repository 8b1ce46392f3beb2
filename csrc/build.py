"""Builds the C parts: the cffi extension (API mode), and the static programs pybox-init and pybox-monitor. Called by setup.py.

The cdef is read from csrc/pybox.h, and every constant that Python uses is looked up by the compiler in the kernel's headers: no
number is written twice, and none is written by hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cffi import FFI
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
SOURCES = ("clone.c", "gate.c", "launch.c", "ops_fs.c", "ops_self.c", "ops_terminal.c", "parent.c", "spare.c", "words.c")
PROGRAMS = {  # static, shipped beside the Python modules
    "pybox-init": ("init.c",),
    "pybox-monitor": ("monitor.c", "monitor_attach.c", "monitor_health.c", "monitor_log.c", "monitor_next.c"),
}
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-O2")

CONSTANTS = """
CLONE_NEWNS CLONE_NEWPID CLONE_NEWUTS CLONE_NEWIPC CLONE_NEWNET CLONE_NEWUSER CLONE_NEWCGROUP
MS_RDONLY MS_NOSUID MS_NODEV MS_NOEXEC MS_NOATIME MS_REMOUNT MS_BIND MS_REC MS_PRIVATE MS_STRICTATIME MS_RELATIME MNT_DETACH
OPEN_TREE_CLONE OPEN_TREE_CLOEXEC AT_RECURSIVE
MOUNT_ATTR_RDONLY MOUNT_ATTR_NOSUID MOUNT_ATTR_NODEV MOUNT_ATTR_NOEXEC
PR_SET_PDEATHSIG PR_SET_NO_NEW_PRIVS PR_SET_DUMPABLE
RLIMIT_AS RLIMIT_CORE RLIMIT_CPU RLIMIT_DATA RLIMIT_FSIZE RLIMIT_LOCKS RLIMIT_MEMLOCK RLIMIT_MSGQUEUE RLIMIT_NICE
RLIMIT_NOFILE RLIMIT_NPROC RLIMIT_RSS RLIMIT_RTPRIO RLIMIT_RTTIME RLIMIT_SIGPENDING RLIMIT_STACK
O_PATH O_CLOEXEC O_DIRECTORY
SECCOMP_FILTER_FLAG_NEW_LISTENER SECCOMP_IOCTL_NOTIF_RECV SECCOMP_IOCTL_NOTIF_SEND SECCOMP_IOCTL_NOTIF_ID_VALID
""".split()

INCLUDES = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#include "pybox.h"
"""


def contract() -> str:
    """Return the part of pybox.h that Python reads, in the form cffi parses."""
    text = (HERE / "pybox.h").read_text()
    return text.partition("from here --- */")[2].partition("/* --- to here ---")[0]


def capabilities() -> list[str]:
    """Return the names of the capabilities that the kernel's header knows, in the order of their numbers."""
    header = subprocess.run(
        ["cc", "-E", "-dM", "-include", "linux/capability.h", "-x", "c", "/dev/null"], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in header.stdout.splitlines()]
    found = {int(row[2]): row[1] for row in rows if len(row) == 3 and row[1].startswith("CAP_") and row[2].isdigit()}
    return [found[number] for number in sorted(found)]


ffi = FFI()
ffi.cdef(contract() + "".join(f"#define {name} ...\n" for name in (*CONSTANTS, *capabilities())))
ffi.set_source(
    "pybox._native",
    INCLUDES,
    sources=[os.path.relpath(HERE / name) for name in SOURCES],
    include_dirs=[os.path.relpath(HERE)],
    depends=[os.path.relpath(HERE / name) for name in ("pybox.h", "exec.h", "ops.h")],
    extra_compile_args=list(WARNINGS),
    libraries=["pthread"],
)


class BuildWithInit(build_py):
    """build_py that also compiles the static programs: with musl where there is one (13 KB, 0.7 ms an exec), else with the C library."""

    def run(self) -> None:
        super().run()
        target = HERE.parent / "pybox" if self.editable_mode else Path(self.build_lib) / "pybox"
        compiler = shutil.which("musl-gcc") or "cc"
        flags = ["-static", "-Os", "-s", "-fno-asynchronous-unwind-tables", "-Wl,--gc-sections", "-Wl,--build-id=none"]
        if compiler.endswith("musl-gcc"):
            # musl has no kernel headers of its own; these are all that is needed
            flags += ["-idirafter", "/usr/include", "-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu"]
        for program, sources in PROGRAMS.items():
            command = [compiler, "-std=gnu11", "-Wall", "-Wextra", *flags, "-o", str(target / program)]
            subprocess.run([*command, *(str(HERE / source) for source in sources)], check=True)
