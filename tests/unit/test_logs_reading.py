"""Reading a log gives back what was written: whatever the bytes, the cuts between the files, and where reading begins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox.logs import STDERR, STDOUT, Reader, parse

LIMIT = 16  # bytes of a piece here; 16 KB in csrc/monitor_log.c
ANYTHING = st.binary(max_size=60).map(lambda text: text.replace(b"\n", b"~"))
LINES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), ANYTHING), max_size=30)


def when(number: int) -> bytes:
    return b"2026-11-24T05:47:15.%09dZ" % number


def record(number: int, stream: int, full: bool, text: bytes) -> bytes:
    return b"%s %s %s %s\n" % (when(number), b"stdout" if stream == STDOUT else b"stderr", b"F" if full else b"P", text)


def records(lines: list[tuple[int, bytes]]) -> list[bytes]:
    """Return lines as the monitor writes them: in pieces, if they are long."""
    found: list[bytes] = []
    for stream, text in lines:
        while len(text) > LIMIT:
            found.append(record(len(found), stream, False, text[:LIMIT]))
            text = text[LIMIT:]
        found.append(record(len(found), stream, True, text))
    return found


def write(folder: Path, parts: list[bytes]) -> None:
    """Write the files of a log, oldest first."""
    for old in folder.iterdir():
        old.unlink()
    for number, part in enumerate(reversed(parts)):
        (folder / (f"log.{number}" if number else "log")).write_bytes(part)


def cut(entries: list[bytes], cuts: list[int]) -> list[bytes]:
    """Divide records among files."""
    places = sorted({min(place, len(entries)) for place in cuts})
    return [b"".join(entries[begin:end]) for begin, end in zip([0, *places], [*places, len(entries)], strict=True)]


def written(folder: Path, tail: int | None = None) -> dict[int, bytes]:
    """Return what each stream shows."""
    reader = Reader(str(folder))
    if tail is not None:
        reader.from_tail(tail)
    shown = {STDOUT: b"", STDERR: b""}
    for _, stream, full, text in reader.read(ended=True):
        shown[stream] += text + (b"\n" if full else b"")
    reader.close()
    return shown


def joined(lines: list[tuple[int, bytes]]) -> dict[int, bytes]:
    return {stream: b"".join(text + b"\n" for which, text in lines if which == stream) for stream in (STDOUT, STDERR)}


@given(LINES, st.lists(st.integers(0, 60), max_size=4))
def test_what_was_written_comes_back_byte_for_byte(tmp_path: Path, lines: list[tuple[int, bytes]], cuts: list[int]) -> None:
    write(tmp_path, cut(records(lines), cuts))
    assert written(tmp_path) == joined(lines)


@given(LINES, st.lists(st.integers(0, 60), max_size=4), st.integers(0, 35))
def test_a_tail_is_the_last_lines(tmp_path: Path, lines: list[tuple[int, bytes]], cuts: list[int], count: int) -> None:
    write(tmp_path, cut(records(lines), cuts))
    assert written(tmp_path, count) == joined(lines[max(0, len(lines) - count) :])


@given(LINES, st.integers(0, 2000))
def test_a_file_that_is_cut_off_shows_all_that_is_there_and_nothing_else(
    tmp_path: Path, lines: list[tuple[int, bytes]], size: int
) -> None:
    whole = b"".join(records(lines))
    write(tmp_path, [whole[:size]])
    found, wanted = written(tmp_path), joined(lines)
    rest = whole[:size].rpartition(b"\n")[2]
    if not 0 < len(rest) < 40:  # of less than a record's head nobody knows whose it is: it is shown as it is
        assert all(wanted[stream].startswith(found[stream]) for stream in wanted)
    for count in (0, 1, 5, 100):
        written(tmp_path, count)


@given(st.binary(max_size=300))
def test_a_log_of_any_bytes_is_read_to_its_end(tmp_path: Path, garbage: bytes) -> None:
    write(tmp_path, [garbage])
    shown = written(tmp_path)
    assert sum(map(len, shown.values())) <= len(garbage)
    for count in (0, 1, 7):
        written(tmp_path, count)


@given(LINES.filter(bool), st.lists(st.integers(1, 500), max_size=20), st.booleans())
def test_a_follower_sees_each_record_once_however_it_arrives(
    tmp_path: Path, lines: list[tuple[int, bytes]], sizes: list[int], early: bool
) -> None:
    write(tmp_path, [b""] if early else [])
    reader = Reader(str(tmp_path))
    shown = {STDOUT: b"", STDERR: b""}
    whole = b"".join(records(lines))

    def look(ended: bool) -> None:
        for _, stream, full, text in reader.read(ended):
            shown[stream] += text + (b"\n" if full else b"")

    done = 0
    for size in [*sizes, len(whole)]:
        with open(tmp_path / "log", "ab") as file:
            file.write(whole[done : done + size])
        done += size
        if size % 3 == 0 and whole[:done].endswith(b"\n"):  # as the monitor does, at the end of a record
            for number in range(20, 0, -1):
                older = tmp_path / (f"log.{number - 1}" if number > 1 else "log")
                if older.exists():
                    older.rename(tmp_path / f"log.{number}")
            (tmp_path / "log").touch()
        if size % 2:
            look(ended=False)
    look(ended=True)
    reader.close()
    assert shown == joined(lines)


def test_a_follower_goes_on_when_its_file_was_thrown_away(tmp_path: Path) -> None:
    write(tmp_path, [record(1, STDOUT, True, b"one")])
    reader = Reader(str(tmp_path))
    assert [piece[3] for piece in reader.read(False)] == [b"one"]
    (tmp_path / "log").unlink()
    assert list(reader.read(False)) == []
    (tmp_path / "log").write_bytes(record(2, STDOUT, True, b"two"))
    assert [piece[3] for piece in reader.read(False)] == [b"two"]
    reader.close()


def test_the_pieces_of_a_line_are_found_beyond_the_other_streams_lines(tmp_path: Path) -> None:
    entries = [record(1, STDERR, False, b"a"), record(2, STDOUT, True, b"x"), record(3, STDERR, True, b"b")]
    write(tmp_path, [b"".join(entries)])
    assert written(tmp_path, 1) == {STDOUT: b"", STDERR: b"ab\n"}


def test_a_tail_reads_from_the_end_and_not_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    with open(path, "wb") as file:
        file.truncate(8 << 30)  # a hole: reading it all would take a while
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"".join(record(number, STDOUT, True, b"%d" % number) for number in range(100)))
    read, pread = [], os.pread

    def counting(fd: int, size: int, offset: int) -> bytes:
        read.append(size)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", counting)
    assert written(tmp_path, 2) == {STDOUT: b"98\n99\n", STDERR: b""}
    assert sum(read) < 2 << 20


def test_a_line_says_its_time_stream_and_whether_it_is_whole() -> None:
    assert parse(when(5) + b" stderr P some \0text") == (when(5), STDERR, False, b"some \0text")
    assert parse(b"no record") == (b"", STDOUT, True, b"no record")
    assert parse(when(5) + b" stdout F ") == (when(5), STDOUT, True, b"")
