"""A plain user's container gets to the network through pasta, and pasta ends with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PYBOX, eventually
from place import INTERNET, OUTSIDE, Place
from test_rootless import GID, UID, Person, home, pytestmark

__all__ = ["home", "pytestmark"]

WEB = ("-p", "8085:80", "busybox", "httpd", "-f", "-h", "/www")


@pytest.fixture(scope="module")
def there(home: Path) -> Iterator[Place]:
    missing = [name for name in ("pasta", "nsenter", "setpriv", "ip") if not shutil.which(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)} (Debian packages passt, util-linux, iproute2)")
    if not os.path.exists("/dev/net/tun") or not os.stat("/dev/net/tun").st_mode & 0o002:
        pytest.skip("a plain user can't open /dev/net/tun here (User Mode Linux has no udev, which would open it)")
    place = Place(home)  # where a plain user may look
    yield place
    place.close()


@pytest.fixture(scope="module")
def person(there: Place, home: Path) -> Person:
    """A plain user of that host."""
    become = ("setpriv", "--reuid", str(UID), "--regid", str(GID), "--clear-groups")
    made = Person(home, ("nsenter", "--net", "--mount", "--target", str(there.host.pid), *become))
    done = made.pybox("import", "busybox", str(home / "tree"))
    assert done.returncode == 0, done.stderr
    return made


def pastas(person: Person) -> list[str]:
    """Return the pids of that person's pastas."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[0].rpartition("/")[2].startswith("pasta") and any(word.startswith(str(person.home)) for word in words):
            found.append(pid)
    return found


def test_a_plain_users_container_reaches_the_internet_and_no_program_of_the_host_s_loopback(there: Place, person: Person) -> None:
    inside = f"timeout 5 wget -qO- http://{INTERNET}/; timeout 1 wget -qO- http://127.0.0.1:8086/ && echo REACHED; cat /etc/hosts"
    server = subprocess.Popen(there._words(there.host, "busybox", "httpd", "-f", "-p", "127.0.0.1:8086", "-h", str(there.www)))
    try:
        said = person.run("--network", "pybox", "--add-host", "db:192.0.2.9", "busybox", "sh", "-c", inside)
    finally:
        server.kill()
        server.wait()
    assert said.startswith("hello") and "REACHED" not in said and "192.0.2.9\tdb" in said
    assert eventually(lambda: pastas(person) == [])


def test_a_plain_user_can_publish_ports_and_pasta_ends_with_a_killed_pybox(there: Place, person: Person) -> None:
    words = [*person.prefix, *PYBOX, "run", "--rm", "-v", f"{there.www}:/www", *WEB]
    process = subprocess.Popen(words, env=person.env, stdin=subprocess.DEVNULL)
    try:
        assert eventually(lambda: there.fetch("http://127.0.0.1:8085/") == "hello", 10)
        assert there.fetch(f"http://{OUTSIDE}:8085/", there.internet) == "hello"
        assert len(pastas(person)) == 1
        taken = person.pybox("run", "--rm", *WEB)
        assert taken.returncode == 125 and "pasta: " in taken.stderr and "is the port in use" in taken.stderr
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert person.pybox("gc").returncode == 0
    assert eventually(lambda: pastas(person) == [])
    assert person.leftovers() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "other"), "is for root: a plain user has `pybox` only"),
        (("--allow-net", "none"), "can't be enforced for a plain user's container"),
        (("-p", "80"), "a plain user has to say which port of the host"),
        (("-p", "80:80"), "is the port in use, or below 1024?"),
    ],
)
def test_what_pasta_can_not_do_is_refused_in_one_line(person: Person, words: tuple[str, ...], message: str) -> None:
    done = person.pybox("run", "--rm", *words, "busybox", "true")
    assert done.returncode == 125 and message in done.stderr and done.stderr.count("pybox: error: ") == 1, done.stderr
    assert person.leftovers() == [] and pastas(person) == []


def test_without_pasta_a_plain_user_is_told_its_package(person: Person, tmp_path: Path) -> None:
    for name in ("setpriv", "nsenter"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    tmp_path.chmod(0o755)
    without = Person(person.home, person.prefix)
    without.env = {**person.env, "PATH": str(tmp_path)}
    done = without.pybox("run", "--rm", "--network", "pybox", "busybox", "true")
    assert done.returncode == 125, done.stderr
    assert "through pasta, which is not installed" in done.stderr and "hint: apt install passt" in done.stderr
