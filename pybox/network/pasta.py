"""For plain users: pasta (Debian package passt), which carries a container's connections as the user's own. pasta(1)

A plain user can't make interfaces on the host, so there is no bridge, no neighbour, and the host's rules apply to him as to any
program of his. pasta runs beside the container, one process each, and is ended with it: it is found by the path of its pid file,
which is among its words and is nobody else's.
"""

from __future__ import annotations

import os
from signal import SIGKILL, SIGPIPE

from pybox.errors import PyboxError, SpecError
from pybox.host import read
from pybox.netspec import Port

PROGRAM = "pasta"
_USERNS, _NETNS = 200, 201  # fds of it


def find() -> str:
    """Return the path of pasta. Raises PyboxError when it is not installed."""
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        if os.access(f"{folder}/{PROGRAM}", os.X_OK):
            return f"{folder}/{PROGRAM}"
    raise PyboxError("a plain user's container gets to the network through pasta, which is not installed", "apt install passt")


def words(ports: tuple[Port, ...], pid_file: str, userns: str, netns: str) -> list[str]:
    """Return the command line. Raises SpecError for ports that it can't publish."""
    found = [PROGRAM, "--quiet", "--config-net", "--ns-ifname", "eth0", "--no-map-gw", "--pid", pid_file]
    for protocol, option in (("tcp", "-t"), ("udp", "-u")):
        mine = [port for port in ports if port.protocol == protocol]
        for port in mine:
            if not port.host:
                raise SpecError("publish", str(port.inside), "a plain user has to say which port of the host", "-p 8080:80")
            found += [option, f"{port.address}/{port.host}:{port.inside}" if port.address else f"{port.host}:{port.inside}"]
        found += [] if mine else [option, "none"]
    return [*found, "-T", "none", "-U", "none", "--userns", userns, "--netns", netns]


def start(ports: tuple[Port, ...], pid_file: str, userns: int, netns: int) -> None:
    """Start pasta for a pair of namespaces; it has set up the interface when this returns. Raises PyboxError."""
    program = find()
    # by its own fds: once it is in the user namespace, those of pybox are not shown to it
    line = words(ports, pid_file, f"/proc/self/fd/{_USERNS}", f"/proc/self/fd/{_NETNS}")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        files = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
        files += [(os.POSIX_SPAWN_DUP2, userns, _USERNS), (os.POSIX_SPAWN_DUP2, netns, _NETNS)]
        # Python ignores SIGPIPE, and a pasta that inherits that gives up
        pid = os.posix_spawn(program, line, os.environ, file_actions=files, setsigdef=(SIGPIPE,))
    finally:
        os.close(writer)
        os.close(null)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # it goes on in the background when all is set up
    os.set_blocking(reader, False)
    try:
        said = os.read(reader, 4096).decode(errors="replace")
    except BlockingIOError:
        said = ""
    finally:
        os.close(reader)
    if code:
        lines = [text for text in said.splitlines() if "syslog" not in text and text.strip()]
        why = lines[-1] if lines else f"exit status {code}"
        hint = (
            "it needs /dev/net/tun, open to all (0666): modprobe tun"
            if "tun socket" in why
            else "is the port in use, or below 1024?"
        )
        raise PyboxError(f"pasta: {why}", hint)


def stop(pid_file: str) -> None:
    """End the pasta of a container, also one that had not come to write its pid file."""
    first = read(pid_file).strip()
    if not (first.isdigit() and _end(int(first), pid_file)):
        for name in os.listdir("/proc"):
            if name.isdigit():
                _end(int(name), pid_file)
    try:
        os.unlink(pid_file)
    except FileNotFoundError:
        pass


def _end(pid: int, pid_file: str) -> bool:
    from signal import pidfd_send_signal

    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        line = read(f"/proc/{pid}/cmdline").split("\0")  # after the fd is open: it is of the process that will be ended
        if line[0].rpartition("/")[2].startswith(PROGRAM) and pid_file in line:
            pidfd_send_signal(fd, SIGKILL)
            return True
    except OSError:
        pass
    finally:
        os.close(fd)
    return False
