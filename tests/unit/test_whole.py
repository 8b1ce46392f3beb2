"""A file is there whole, or as it was."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Thread

import pytest

from pybox.whole import replacing


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "f"
    place.write_text("old")
    with replacing(str(place)) as fd:
        os.write(fd, b"new")
        assert place.read_text() == "old"
    assert place.read_text() == "new" and os.listdir(tmp_path) == ["f"]


def test_what_fails_leaves_what_was(tmp_path: Path) -> None:
    place = tmp_path / "f"
    place.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(str(place)) as fd:
        os.write(fd, b"ne")
        raise KeyboardInterrupt
    assert place.read_text() == "old" and os.listdir(tmp_path) == ["f"]


def test_a_pipe_or_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    with replacing(str(pipe)) as fd:
        os.write(fd, b"new")
    reader.join()
    assert heard == [b"new"] and stat.S_ISFIFO(os.stat(pipe).st_mode)
