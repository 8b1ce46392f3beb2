"""The image commands: docker's words in tables, JSON for programs, one line for a mistake."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from image_tars import contents, dirs, entry, tar

from pybox.cli import images as commands
from pybox.dirs import Dirs
from pybox.errors import ImageError, ImageNotFound, PyboxError, SpecError
from pybox.image import store


@pytest.fixture
def here(tmp_path: Path) -> Dirs:
    (tmp_path / "root.tar").write_bytes(tar(entry("f", data=b"x" * 1234)))
    return dirs(tmp_path)


def bring(here: Dirs, name: str, *more: str) -> None:
    assert commands.import_(here, [name, f"{Path(here.store).parent}/root.tar", *more]) == 0


def test_an_empty_store_lists_as_a_header_and_as_an_empty_array(here: Dirs, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.images(here, []) == 0
    assert capsys.readouterr().out.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert commands.images(here, ["--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert contents(here.store) == set()


def test_the_table_has_a_row_for_each_name(here: Dirs, capsys: pytest.CaptureFixture[str]) -> None:
    bring(here, "quay.io/team/tool:2")
    assert commands.tag(here, ["quay.io/team/tool:2", "short"]) == 0
    image_id = capsys.readouterr().out.strip()
    commands.images(here, [])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["quay.io/team/tool", "2", image_id[7:19]], ["short", "latest", image_id[7:19]]]
    assert rows[0][-1] == "1.23kB"
    commands.images(here, ["-q", "--no-trunc"])
    assert capsys.readouterr().out.strip() == image_id


def test_an_image_without_a_name_is_listed(here: Dirs, capsys: pytest.CaptureFixture[str]) -> None:
    bring(here, "tool")
    bring(here, "tool", "--cmd", "sh")
    capsys.readouterr()
    commands.images(here, [])
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} == {"tool", "<none>"}


def test_import_takes_the_settings_of_a_run(here: Dirs, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--cmd", "sh -c 'a b'", "--entrypoint", '["/e", "x y"]', "-e", "A=1", "--env", "B=", "-u", "1:2", "-w", "/w"]
    bring(here, "tool", *settings, "--stop-signal", "SIGINT", "--platform", "linux/arm64")
    image = store.find(here, "tool")
    assert (image.config.cmd, image.config.entrypoint) == (("sh", "-c", "a b"), ("/e", "x y"))
    assert (image.config.env, image.config.user, image.config.workdir) == (("A=1", "B="), "1:2", "/w")
    assert (image.config.stop_signal, image.architecture) == ("SIGINT", "arm64")
    assert capsys.readouterr().out.strip() == image.id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cmd", "'open"], "cmd: .* not a command"),
        (["--cmd", "[1]"], "cmd: .* not an array of texts"),
        (["--cmd", "[{"], "cmd: .* not a command"),
        (["-e", "A"], "env: 'A': not NAME=VALUE"),
        (["-e", "=A"], "env: '=A': not NAME=VALUE"),
        (["-w", "relative"], "workdir: 'relative': not an absolute path"),
        (["--platform", "windows/amd64"], "platform: .* not linux/ARCHITECTURE"),
        (["--platform", "linux"], "platform: .* not linux/ARCHITECTURE"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_made(here: Dirs, arguments: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        commands.import_(here, ["tool", f"{Path(here.store).parent}/root.tar", *arguments])
    assert not Path(here.store).exists()


@pytest.mark.parametrize("command", [commands.image_inspect, commands.rmi, commands.tag, commands.import_, commands.save])
def test_missing_arguments_are_an_error_with_a_hint(here: Dirs, command) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PyboxError, match="arguments are required") as caught:
        command(here, [])
    assert str(caught.value.hint).startswith("usage: pybox ")


def test_image_has_dockers_second_spelling_of_every_command(here: Dirs, capsys: pytest.CaptureFixture[str]) -> None:
    bring(here, "tool")
    assert commands.image(here, ["tag", "tool", "other"]) == 0
    assert commands.image(here, ["rm", "tool"]) == 0
    capsys.readouterr()
    assert commands.image(here, ["ls", "--format", "json"]) == 0
    assert [image["names"] for image in json.loads(capsys.readouterr().out)] == [["other:latest"]]
    for wrong, message in (([], "which of its commands"), (["shrink"], "no such command: image shrink")):
        with pytest.raises(PyboxError, match=message):
            commands.image(here, wrong)


@pytest.mark.parametrize("command", ["images", "image inspect", "rmi", "tag", "import", "load", "save"])
def test_help_lists_the_options(command: str) -> None:
    assert commands.help_of(command).startswith(f"usage: pybox {command} ")


def test_inspect_prints_an_array_in_dockers_words(here: Dirs, capsys: pytest.CaptureFixture[str]) -> None:
    bring(here, "tool", "--cmd", "sh")
    capsys.readouterr()
    assert commands.image_inspect(here, ["tool"]) == 0
    (image,) = json.loads(capsys.readouterr().out)
    assert image["Config"] == {"Cmd": ["sh"]} and image["RepoTags"] == ["tool:latest"]
    assert (image["Os"], image["Size"], len(image["RootFS"]["Layers"])) == ("linux", 1234, 1)


def test_save_load_and_rmi_tell_what_they_did(
    here: Dirs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(here, "tool")
    image_id = capsys.readouterr().out.strip()
    assert commands.save(here, ["tool", "-o", f"{tmp_path}/out.tar"]) == 0
    assert commands.rmi(here, ["tool"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["Untagged: tool:latest", f"Deleted: {image_id}"]
    assert commands.load(here, ["-i", f"{tmp_path}/out.tar"]) == 0
    assert capsys.readouterr().out == "Loaded image: tool:latest\n"
    monkeypatch.setattr("pybox.listing.layers_in_use", lambda dirs: frozenset(store.find(dirs, "tool").layers))
    with pytest.raises(ImageError, match="in use by a container"):
        commands.rmi(here, ["tool"])


def test_an_absent_image_is_named_by_every_command(here: Dirs, tmp_path: Path) -> None:
    for command, arguments in (
        (commands.image_inspect, ["absent"]),
        (commands.rmi, ["absent"]),
        (commands.tag, ["absent", "x"]),
        (commands.save, ["absent", "-o", f"{tmp_path}/out"]),
    ):
        with pytest.raises(ImageNotFound, match="no image absent"):
            command(here, arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (999_600, "1MB"), (1_982_259, "1.98MB"), (10**11, "100GB"), (10**16, "1e+04TB")],
)
def test_sizes_are_printed_as_docker_does(count: int, text: str) -> None:
    assert commands.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds ago"),
        (61, "1 minute ago"),
        (7300, "2 hours ago"),
        (86400 * 3, "3 days ago"),
        (86400 * 15, "2 weeks ago"),
        (86400 * 70, "2 months ago"),
        (86400 * 800, "2 years ago"),
        (-100, "0 seconds ago"),
    ],
)
def test_ages_are_words(seconds: int, text: str) -> None:
    assert commands.age(time.strftime("%Y-%m-%dT%H:%M:%S.123Z", time.gmtime(time.time() - seconds))) == text


def test_an_age_that_cannot_be_read_does_not_break_the_table() -> None:
    assert (commands.age(""), commands.age("yesterday")) == ("", "N/A")
