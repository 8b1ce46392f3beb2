"""pybox build by a plain user: with one id, and with the many ids of /etc/subuid."""

from __future__ import annotations

import subprocess
from pathlib import Path

from test_files_rootless import files, who  # noqa: F401
from test_rootless import GID, UID, Person, home, person, pytestmark, wealthy  # noqa: F401

TEXT = """
FROM busybox AS maker
RUN mkdir /d && echo made >/d/f && chmod 0 /d/f && rm -rf /home && (chown 7:8 /d/f || true)
COPY --chown=5:6 tree /t/
FROM busybox
WORKDIR /w
COPY --from=maker /t /got/
COPY --from=maker /d /closed/
RUN cat /closed/f | tee /w/out
"""


def test_a_plain_user_builds_what_is_roots_inside(who: Person, files: Path) -> None:  # noqa: F811
    (files / "Containerfile").write_text(TEXT)
    subprocess.run(["chown", f"{UID}:{GID}", files / "Containerfile"], check=True)
    done = who.pybox("build", "-t", "built", str(files))
    assert done.returncode == 0, done.stderr
    script = "cat /got/f /w/out; stat -c '%u %a %n' /got /w /got/sub / && readlink /got/l"
    found = who.pybox("run", "--rm", "built", "sh", "-c", script)
    assert (found.stdout, found.stderr) == ("mine" + "made\n" + "0 755 /got\n0 755 /w\n0 755 /got/sub\n0 755 /\nf\n", "")
    saved = who.pybox("save", "-o", f"{files}/built.tar", "built")
    assert saved.returncode == 0, saved.stderr
    for words in (("rmi", "built"), ("image", "prune"), ("load", "-i", f"{files}/built.tar"), ("rmi", "built")):
        assert who.pybox(*words).returncode == 0
    assert who.leftovers() == []
