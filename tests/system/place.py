"""A host for the tests of networks: a network namespace with a way to "the internet", which is another one behind it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import BUSYBOX, PYBOX, TIMEOUT, eventually

INTERNET = "198.51.100.2"
OUTSIDE = "198.51.100.1"  # the host's address, as the internet sees it


def usable() -> None:
    """Skip, and say why, where there can be no such host."""
    missing = [name for name in ("nft", "nsenter", "ip") if not shutil.which(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)} (Debian packages nftables, util-linux, iproute2)")
    nat = "add table inet t; add chain inet t c { type nat hook postrouting priority 100; }; add rule inet t c masquerade"
    if subprocess.run(["unshare", "--net", "nft", nat], capture_output=True, check=False).returncode:
        pytest.skip("no tables of the family inet here: User Mode Linux of Debian has no CONFIG_NF_TABLES_INET, _IPV4 or _IPV6")


class Place:
    """A host for the tests: a network namespace with a way to the internet, in which pybox is run."""

    def __init__(self, work: Path) -> None:
        self.www = work / "www"
        self.www.mkdir(exist_ok=True)
        (self.www / "index.html").write_text("hello\n")
        self.internet = self._namespace()
        self.host = self._namespace()
        self.at(self.host, "ip", "link", "add", "wan", "type", "veth", "peer", "name", "eth0", "netns", str(self.internet.pid))
        for where, name, address in ((self.host, "wan", OUTSIDE), (self.internet, "eth0", INTERNET)):
            self.at(where, "ip", "address", "add", f"{address}/24", "dev", name)
            self.at(where, "ip", "link", "set", name, "up")
        self.at(self.host, "ip", "route", "add", "default", "via", INTERNET)
        self.at(self.host, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        self.server = subprocess.Popen(self._words(self.internet, BUSYBOX, "httpd", "-f", "-p", "80", "-h", str(self.www)))

    def _namespace(self) -> subprocess.Popen[bytes]:
        before = os.readlink("/proc/self/ns/net")
        made = subprocess.Popen(["unshare", "--net", "--mount", "sleep", "1000"])
        assert eventually(
            lambda: (
                os.readlink(f"/proc/{made.pid}/ns/net") != before
                and b"sleep" in Path(f"/proc/{made.pid}/cmdline").read_bytes()[:6]
            )
        )
        self.at(made, "ip", "link", "set", "lo", "up")
        return made

    def _words(self, where: subprocess.Popen[bytes], *words: str) -> list[str]:
        return ["nsenter", "--net", "--mount", "--target", str(where.pid), *words]

    def at(self, where: subprocess.Popen[bytes], *words: str) -> str:
        """Run a command there and return what it said."""
        return subprocess.run(self._words(where, *words), check=True, capture_output=True, text=True, timeout=TIMEOUT).stdout

    def pybox(self, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run `pybox WORDS` on the host."""
        options = {"capture_output": True, "text": True, "timeout": TIMEOUT, "stdin": subprocess.DEVNULL, **options}
        return subprocess.run(self._words(self.host, *PYBOX, *words), check=False, **options)  # type: ignore[call-overload, no-any-return]

    def said(self, *words: str) -> str:
        """Run `pybox WORDS`, which is to end well, and return what it said."""
        done = self.pybox(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start `pybox WORDS`."""
        return subprocess.Popen(self._words(self.host, *PYBOX, *words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def fetch(self, url: str, where: subprocess.Popen[bytes] | None = None, seconds: float = 2) -> str:
        """Return what a program of the host, or of the internet, gets from a URL; "" when it gets nothing in that time."""
        words = self._words(where or self.host, "timeout", str(seconds), BUSYBOX, "wget", "-q", "-O-", url)
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()

    def of_containers(self) -> list[str]:
        """Return all elements and chains that are a container's."""
        rules = self.at(self.host, "nft", "list", "ruleset")
        return re.findall(r"(?:fence|sends)-.*|(?:tcp|udp) \. \d+ : .*|pb[0-9a-f]{13}", rules)

    def links(self) -> set[str]:
        """Return the interfaces of the host."""
        return {line.split()[0].partition("@")[0] for line in self.at(self.host, "ip", "-br", "link").splitlines()}

    def close(self) -> None:
        for process in (self.server, self.internet, self.host):
            process.kill()
            process.wait()
