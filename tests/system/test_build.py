"""pybox build: images from Containerfiles, on the real kernel."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import TIMEOUT, Images, cli, eventually, start

import pybox
from pybox import dirs
from pybox.containerfile.building import Built
from pybox.image import store

Write = Callable[..., Path]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A context of its own, with a file in it."""
    made = tmp_path / "context"
    made.mkdir()
    (made / "file").write_text("content\n")
    return made


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """Remove the images that a test has built, so that none finds its steps in the cache."""
    before = {image.id for image in store.images(dirs.current())}
    yield
    from pybox.image import changes

    for image in store.images(dirs.current()):
        if image.id not in before:
            for name in image.names or (image.id,):
                changes.remove(dirs.current(), name)


def build(context: Path, text: str, **options: object) -> Built:
    return pybox.build(context, file=text.encode(), tag="built", **options)  # type: ignore[arg-type]


def said(*words: str, image: str = "built") -> str:
    result = pybox.run(image, words)
    assert result.ok and result.stdout is not None, result
    return result.stdout.decode()


def steps() -> int:
    return len(store.images(dirs.current()))


def debris() -> list[str]:
    where = dirs.current()
    uppers = os.listdir(where.uppers) if os.path.isdir(where.uppers) else []
    return [name for name in os.listdir(where.store) if name.startswith("tmp-")] + uppers


STAGES = """
FROM busybox AS maker
ARG GREETING=hello
ENV WHO=world
WORKDIR /made/deep
RUN echo "$GREETING $WHO" >text && ln -s text link && rm /bin/inside && mkdir /made/private && chmod 700 /made/private
COPY --chown=alice:video --chmod=640 file /made/owned

FROM busybox
COPY --from=maker /made /got
COPY --from=busybox /etc/passwd /passwd
COPY <<DOC /inline
inline $GREETING
DOC
WORKDIR /got/deep
USER alice
EXPOSE 80
ENTRYPOINT ["cat"]
CMD ["text"]
"""


def test_an_image_of_two_stages_is_what_its_containerfile_says(context: Path) -> None:
    built = build(context, STAGES, build_args={"GREETING": "good morning"})
    assert said() == "good morning world\n"
    assert said("/got/deep/link", "/inline") == "good morning world\ninline \n"
    found = pybox.run("built", ["-c", "%a %u %g", "/got/owned", "/got/private", "/got", "/passwd"], entrypoint="stat").stdout
    assert found == b"640 1000 44\n700 0 0\n755 0 0\n644 0 0\n"
    assert pybox.run("built", ["-e", "/bin/inside"], entrypoint="test").ok  # only the first stage has removed it
    config = json.loads(cli("image", "inspect", built.id).stdout)[0]["Config"]
    assert (config["User"], config["WorkingDir"], config["ExposedPorts"]) == ("alice", "/got/deep", {"80/tcp": {}})
    assert debris() == []


def test_nothing_is_made_twice_and_the_image_is_then_the_same(context: Path) -> None:
    first = build(context, STAGES)
    images = steps()
    again = build(context, STAGES)
    assert (again.id, again.cached, steps()) == (first.id, again.steps - 2, images)
    os.utime(context / "file", (1, 1))
    (context / "other").touch()
    assert build(context, STAGES).cached == again.cached  # neither a time nor a file that is not copied counts


def test_a_change_makes_all_that_follows_it_anew_and_nothing_before(context: Path) -> None:
    text = "FROM busybox\nRUN true\nCOPY file /\nARG X\nCOPY file /again\nRUN echo $X\nCMD x"
    cached = [build(context, text, **options).cached for options in ({}, {}, {"build_args": {"X": "1"}}, {"cache": False})]  # type: ignore[arg-type]
    (context / "file").chmod(0o600)
    assert [*cached, build(context, text).cached] == [0, 6, 4, 0, 1]


def test_the_time_of_an_image_can_be_given_and_nothing_else_differs(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    text = "FROM busybox\nRUN mkdir /d; echo x >/d/f\nCOPY . /context/\nWORKDIR /new"
    first = build(context, text)
    os.utime(context / "file", (2e9, 2e9))
    monkeypatch.setattr(time, "time", lambda: 1.9e9)
    assert build(context, text, cache=False).id == first.id
    assert said("stat", "-c", "%Y", "/d", "/d/f", "/context", "/context/file", "/new").split() == ["1000000000"] * 5


def test_a_run_that_fails_says_its_line_its_status_and_what_it_wrote(context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\n\nRUN echo one; \\\n  echo two >&2; exit 7\n")
    before = steps()
    done = cli("build", str(context))
    assert done.returncode == 7 and done.stdout == ""
    assert "\none\ntwo\npybox: error: Dockerfile:3: RUN echo one; echo two >&2; exit 7: exit status 7\n" in done.stderr
    assert (steps(), debris()) == (before, [])


def test_an_error_of_a_step_says_what_kind_it_is(context: Path) -> None:
    for text, code, status in (
        ("FROM busybox\nRUN exit 7", "E-BUILD-RUN", 7),
        ('FROM busybox\nRUN ["nope"]', "E-EXEC-MISSING", 127),
        ("FROM busybox\nCOPY nope /", "E-BUILD", 125),
        ("FROM nope", "E-IMAGE-ABSENT", 125),
        ("RUM x", "E-BUILD-FILE", 125),
    ):
        with pytest.raises(pybox.BuildError) as caught:
            build(context, text, pull="never")
        assert (caught.value.code, caught.value.exit_code) == (code, status)


def test_the_command_line_says_a_line_a_step_and_prints_the_id(context: Path) -> None:
    (context / "Containerfile").write_text("FROM busybox\nCOPY file /a\nRUN echo loud\n")
    first, second = (cli("build", "-t", "built", "--iidfile", str(context / "id"), str(context)) for _ in range(2))
    assert first.stdout == second.stdout == f"{(context / 'id').read_text()}\n"
    assert [line.split("  ")[0] for line in first.stderr.splitlines()[:3]] == [
        "[1/3] FROM busybox",
        "[2/3] COPY file /a",
        "[3/3] RUN echo loud",
    ]
    assert second.stderr.splitlines()[1:3] == ["[2/3] COPY file /a  CACHED", "[3/3] RUN echo loud  CACHED"]
    assert "loud\n" in cli("build", "--no-cache", "--progress", "plain", str(context)).stderr


def test_a_containerfile_from_standard_input_that_there_is_none_of_is_empty(context: Path) -> None:
    words = ("build", "-f", "-", str(context))
    assert cli(*words, input=b"FROM busybox\nENV a=b\n").returncode == 0
    closed = cli(*words, stdin=None, preexec_fn=lambda: os.close(0))
    assert (closed.returncode, closed.stderr) == (125, "pybox: error: Containerfile: no instructions\n")


def test_steps_of_a_build_are_listed_only_when_asked_for_and_pruned(context: Path) -> None:
    build(context, "FROM busybox\nRUN true\nRUN echo x >/x")
    assert len(cli("images", "-q", "-a").stdout.split()) - len(cli("images", "-q").stdout.split()) == 2
    assert cli("image", "prune").stdout.count("Deleted: ") == 2
    assert said("cat", "/x") == "x\n"
    assert build(context, "FROM busybox\nRUN true\nRUN echo x >/x").cached == 0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("FROM busybox\nRUN touch /ran\nCOPY ../x /", 3),
        ("FROM busybox\nRUN touch /ran\nRUN --mount=type=secret,id=x true", 3),
        ("FROM busybox\nRUN touch /ran\nADD https://example.com/ /", 3),
    ],
)
def test_what_is_not_supported_is_refused_before_anything_runs(context: Path, text: str, line: int) -> None:
    before = steps()
    with pytest.raises(pybox.ContainerfileError) as caught:
        build(context, text)
    assert caught.value.line == line and steps() == before


def test_the_root_of_an_image_stays_what_it_is(context: Path, image: Images) -> None:
    name = image(lambda tree: (tree.chmod(0o555), os.chown(tree, 3, 4)))
    for step in ("RUN touch /new", "COPY file /", "WORKDIR /new"):
        build(context, f"FROM {name}\n{step}")
        top = os.stat(store.stored(dirs.current(), "built").layers[0])
        assert (top.st_mode & 0o7777, top.st_uid, top.st_gid) == (0o555, 3, 4), step


def test_run_has_no_network_and_no_more_rights_than_any_container(context: Path) -> None:
    build(
        context,
        "FROM busybox\nRUN ls /sys/class/net >/net; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status >/rights; "
        "! mount -t tmpfs x /tmp",
    )
    assert said("cat", "/net") == "lo\n"
    assert said("cat", "/rights").split() == ["CapBnd:", "00000000800405fb", "NoNewPrivs:", "1", "Seccomp:", "2"]


def test_links_in_a_context_lead_nowhere_but_into_it(context: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for name, target in {"up": "../secret", "absolute": str(tmp_path / "secret"), "root": "/", "dots": "../../../../.."}.items():
        (context / name).symlink_to(target)
    for source in ("up", "absolute", "root/etc/passwd", "dots/etc/passwd"):
        with pytest.raises(pybox.BuildError, match="no such file or directory in the build context"):
            build(context, f"FROM busybox\nCOPY {source} /x")
    build(context, "FROM busybox\nCOPY . /x/\nCOPY dots/file /y")
    assert [said("readlink", path) for path in ("/x/up", "/x/root")] == ["../secret\n", "/\n"]
    assert said("cat", "/y") == "content\n"


def test_links_in_an_image_lead_nowhere_but_into_it(context: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    text = (
        f"FROM busybox AS evil\nRUN mkdir -p {out}; ln -s {out} /abs; ln -s ../../../../../../{out} /dots; ln -s /etc/passwd /p\n"
    )
    build(context, text + "COPY file /abs/\nCOPY file /dots/f\nFROM busybox\nCOPY --from=evil /abs/file /dots/f /p /got/\n")
    assert os.listdir(out) == []
    assert said("cat", "/got/file", "/got/f") == "content\n" * 2
    assert said("head", "-n1", "/got/p").startswith("root:x:0:0:root:/root:/bin/sh")


def test_a_context_that_changes_all_the_time_never_leads_out(context: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    inside = context / str(outside).lstrip("/")  # where a link to the other leads, if the context is all there is
    for where, text in ((outside, "secret"), (inside, "mine"), (context / "d", "mine")):
        where.mkdir(parents=True)
        (where / "f").write_text(text)
    (context / "evil").symlink_to(outside)
    names, over = [os.fsencode(context / name) for name in ("d", "evil")], threading.Event()

    def swap() -> None:
        exchange = ctypes.CDLL(None).renameat2
        while not over.wait(0.006):  # about what a look takes: so one that follows links would read the other twice
            assert exchange(-100, names[0], -100, names[1], 2) == 0  # AT_FDCWD, RENAME_EXCHANGE: there is a d at all times

    swapper = threading.Thread(target=swap)
    swapper.start()
    good = 0
    try:
        for _ in range(200):
            try:
                build(context, "FROM scratch\nCOPY d/f /f\nCOPY d /d/", cache=False)
            except pybox.BuildError:  # it was noticed
                continue
            built = store.stored(dirs.current(), "built")
            files = (Path(folder, name) for layer in built.layers for folder, _, found in os.walk(layer) for name in found)
            assert {file.read_text() for file in files} == {"mine"}  # d itself may have come as the link that it was
            good += 1
            if good == 8:
                break
    finally:
        over.set()
        swapper.join()
    assert good, "not one build came to its end, so nothing was looked at"


def test_a_build_that_is_killed_in_a_run_leaves_nothing_but_what_was_whole(context: Path) -> None:
    (context / "Containerfile").write_text("FROM busybox\nCOPY file /a\nRUN touch /half && echo up && sleep 600\n")
    process = start(
        "build", "-t", "built", "--progress", "plain", str(context), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line == b"up\n":
            break
    assert len(os.listdir(dirs.current().uppers)) == 1
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT)
    process.stderr.close()
    (context / "Containerfile").write_text("FROM busybox\nCOPY file /a\nRUN touch /whole\n")
    assert eventually(lambda: cli("gc").returncode == 0 and debris() == [])
    done = cli("build", "-t", "built", str(context))
    assert done.returncode == 0 and "COPY file /a  CACHED" in done.stderr
    assert said("ls", "/").split().count("whole") == 1 and "half" not in said("ls", "/")


def test_a_build_that_is_told_to_stop_cleans_up_itself(context: Path) -> None:
    (context / "Containerfile").write_text("FROM busybox\nRUN echo up && sleep 600\n")
    process = start("build", "--progress", "plain", str(context), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    for line in process.stderr:
        if line == b"up\n":
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 130
    process.stderr.close()
    assert debris() == []


def test_a_here_document_is_a_script_for_the_shell_or_for_the_program_it_names(context: Path) -> None:
    text = "FROM busybox\nRUN <<A\necho $((1+1)) >/shell\nA\nUSER alice\nRUN <<A\n#!/bin/cat\nx $y\nA\nRUN cat <<'A' >/tmp/in\n$y\nA\n"
    lines: list[bytes] = []

    class Watch:
        def step(self, number: int, total: int, text: str) -> None: ...
        def done(self, cached: bool, seconds: float) -> None: ...
        def line(self, line: bytes) -> None:
            lines.append(line)

    build(context, text, watch=Watch())
    assert said("cat", "/shell", "/tmp/in") == "2\n$y\n"
    assert lines == [b"#!/bin/cat\n", b"x $y\n"]


def test_one_step_is_undone_by_a_later_layer_and_not_shipped_in_it(context: Path) -> None:
    build(context, "FROM busybox\nRUN mkdir /d && echo x >/d/f && echo y >/d/g\nRUN rm /d/f && rm -r /home && mkdir /home")
    assert said("sh", "-c", "ls /d /home") == "/d:\ng\n\n/home:\n"


def test_a_plain_tar_is_unpacked_by_add_and_kept_by_copy(context: Path) -> None:
    subprocess.run(["tar", "-czf", context / "a.tgz", "-C", context, "file"], check=True)
    build(context, "FROM busybox\nADD a.tgz /added/\nCOPY a.tgz /copied/")
    assert said("ls", "/added", "/copied").split() == ["/added:", "file", "/copied:", "a.tgz"]
