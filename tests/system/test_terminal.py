"""A terminal is one: keys are signals, windows have a size, nothing that is typed or written is lost, and streams that are none pass all."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from harness import PURE_V2, PYBOX, TIMEOUT, cli, eventually, state_and_parent
from person import PROMPT, Person

MIB = 1 << 20
NAP = f"sleep {1_000_000 + os.getpid()}"  # as nobody else on the machine sleeps
AT = ("run", "exec", "exec watched")


@pytest.fixture(scope="module")
def living(store: object) -> Iterator[str]:
    """The name of a container that runs as long as the tests here."""
    yield from _living("living")


@pytest.fixture(scope="module")
def watched(store: object) -> Iterator[str]:
    """The same, and it may look into other processes."""
    yield from _living("living-watched", "--cap-add", "SYS_PTRACE")


def _living(name: str, *options: str) -> Iterator[str]:
    done = cli("run", "-d", "--rm", "--name", name, "--tmpfs", "/tmp", *options, "busybox", "sleep", "100000")
    assert done.returncode == 0, done.stderr
    try:
        yield name
    finally:
        cli("rm", "-f", name)


@pytest.fixture(scope="module", params=AT)
def start(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The words before the options and before the command: a terminal is one in a new container and in one that runs."""
    if request.param == "run":
        return ("run", "--rm", "busybox")
    return ("exec", request.getfixturevalue("living" if request.param == "exec" else "watched"))


def on_terminal(start: tuple[str, ...], *command: str, options: tuple[str, ...] = ("-i", "-t")) -> tuple[str, ...]:
    return (start[0], *options, *start[1:], *command)


def gone() -> bool:
    """Whether no container is left but those of the fixtures."""
    return not [line for line in cli("ps", "-a").stdout.splitlines()[1:] if "living" not in line]


# --- it is a terminal ---------------------------------------------------------------------------------------------------------


def test_a_shell_has_a_terminal_with_a_name_and_job_control(start: tuple[str, ...]) -> None:
    with Person(*on_terminal(start, "sh")) as person:
        person.expect(PROMPT)
        assert person.ask("tty").startswith("/dev/pts/")
        assert person.ask("test -t 0 && test -t 1 && test -t 2 && echo yes") == "yes"
        assert "Stopped" not in person.ask("jobs")
        person.type(f"{NAP}\n")
        person.expect(NAP)
        assert eventually(lambda: "S" in ps(NAP))
        person.type("\x1a")
        person.expect("Stopped")
        person.expect(PROMPT)
        assert "Stopped" in person.ask("jobs")
        person.type("fg\n")
        person.expect(NAP)
        assert eventually(lambda: "T" not in ps(NAP))
        person.type("\x03")
        person.expect(PROMPT)
        assert person.ask("jobs") == ""
        person.type("exit 7\n")
        assert person.end() == 7
        assert person.mode() == person.before


def ps(args: str) -> str:
    """Return the states of all processes with these arguments."""
    wanted, found = args.replace(" ", "\0") + "\0", ""
    for pid in os.listdir("/proc"):
        if pid.isdigit() and cmdline(pid) == wanted:
            with suppress(OSError):
                found += state_and_parent(pid)[0]
    return found


def test_the_command_leads_its_session_and_the_foreground(start: tuple[str, ...]) -> None:
    fields = "read -r pid comm state ppid pgrp session tty foreground rest </proc/self/stat; echo $pgrp $session $foreground $tty"
    with Person(*on_terminal(start, "sh", "-c", f"exec 3<&0; {fields}")) as person:
        assert person.end() == 0
        group, session, foreground, tty = person.text.split()
        assert group == session == foreground and tty != "0"


def test_the_window_has_its_size_from_the_start(start: tuple[str, ...]) -> None:
    for options in (("-i", "-t"), ("-t",)):
        with Person(*on_terminal(start, "stty", "size", options=options), rows=33, columns=99) as person:
            assert person.end() == 0
            assert person.text == "33 99\n"


def test_a_new_size_reaches_the_command_as_a_signal(start: tuple[str, ...]) -> None:
    script = "trap 'stty size' WINCH; echo up; while :; do sleep 0.1; done"
    with Person(*on_terminal(start, "sh", "-c", script)) as person:
        person.expect("up")
        for rows, columns in ((10, 20), (50, 132), (11, 21)):
            person.resize(rows, columns)
            person.expect(f"{rows} {columns}")
        person.type("\x03")
        assert person.end() == 130


@pytest.mark.parametrize(("key", "number"), [("\x03", signal.SIGINT), ("\x1c", signal.SIGQUIT)])
def test_keys_are_signals_to_the_command(start: tuple[str, ...], key: str, number: int) -> None:
    with Person(*on_terminal(start, "sh", "-c", f"echo up; exec {NAP}")) as person:
        person.expect("up")
        assert eventually(lambda: bool(ps(NAP)))
        person.type(key)
        assert person.end() == 128 + number
        assert person.mode() == person.before


def test_ctrl_z_does_not_freeze_a_command_that_no_shell_could_continue(start: tuple[str, ...]) -> None:
    with Person(*on_terminal(start, "sh", "-c", "echo up; exec cat")) as person:
        person.expect("up")
        person.type("\x1a\x1aalive\n")
        person.expect("alive\r\n")
        person.expect("alive\r\n")  # typed, and from cat
        person.type("\x04")
        assert person.end() == 0


def test_a_signal_of_a_key_comes_once(start: tuple[str, ...]) -> None:
    script = "n=0; trap 'n=$((n + 1)); echo count $n' INT; echo up; while :; do sleep 0.1; done"
    with Person(*on_terminal(start, "sh", "-c", script)) as person:
        person.expect("up")
        person.type("\x03")
        person.expect("count 1")
        person.read(0.3)
        person.process.kill()
        assert "count 2" not in person.text


def test_the_end_of_input_ends_cat(start: tuple[str, ...]) -> None:
    with Person(*on_terminal(start, "cat")) as person:
        person.type("line\n")
        person.expect("line\r\n")
        person.expect("line\r\n")
        person.type("\x04")
        assert person.end() == 0


def test_full_screen_programs_work(start: tuple[str, ...]) -> None:
    with Person(*on_terminal(start, "sh", "-c", "vi /tmp/f; cat /tmp/f; top -d 1; echo over; rm /tmp/f")) as person:
        person.expect("/tmp/f")
        person.type("ihello from vi")
        person.expect("vi")
        person.type("\x1b")
        person.read(1)
        person.type(":wq\n")
        person.expect("hello from vi\r\n")
        person.expect("COMMAND")
        person.type("q")
        person.expect("over")
        assert person.end() == 0


# --- nothing is lost ----------------------------------------------------------------------------------------------------------


def test_a_long_output_arrives_whole_however_slow_the_reader(start: tuple[str, ...]) -> None:
    size = (2 if PURE_V2 else 8) * MIB
    script = f"stty raw; dd if=/dev/zero bs=65536 count={size >> 16} 2>/dev/null | tr '\\0' x; echo END"
    with Person(*on_terminal(start, "sh", "-c", script)) as person:
        assert not eventually(lambda: person.process.poll() is not None, 0.7)  # nobody reads: it waits
        assert person.end() == 0
        assert person.screen.count(b"x") == size and person.screen.endswith(b"END\n")


def test_the_last_words_are_never_lost(start: tuple[str, ...]) -> None:
    for count in range(8):
        with Person(*on_terminal(start, "sh", "-c", f"echo word {count}; exit {count}")) as person:
            assert person.end() == count
            assert person.text == f"word {count}\n"


def test_a_long_paste_into_cat_hangs_nobody(start: tuple[str, ...]) -> None:
    lines = 5000
    with Person(*on_terminal(start, "sh", "-c", "echo up; cat >/tmp/f; wc -l </tmp/f; rm /tmp/f")) as person:
        person.expect("up")
        text = b"".join(b"line %08d of what is pasted\n" % number for number in range(lines)) + b"\x04"
        writer = threading.Thread(
            target=lambda: [os.write(person.master, text[at : at + 256]) for at in range(0, len(text), 256)]
        )
        writer.start()  # and nobody reads the echo for a while
        writer.join(0.5)
        person.expect(f"\n{lines}\r\n")
        writer.join()
        assert person.end() == 0


def test_what_is_typed_before_it_is_up_arrives(start: tuple[str, ...]) -> None:
    with Person(*on_terminal(start, "sh", "-c", "read line; echo got $line")) as person:
        person.type("early\n")
        assert person.end() == 0
        assert "got early" in person.text


# --- streams that are no terminal ---------------------------------------------------------------------------------------------

SCRIPT = "cat; echo out; echo err >&2; exit 7"


@pytest.mark.parametrize("source", ["pipe", "file", "null"])
@pytest.mark.parametrize("sink", ["pipe", "file"])
@pytest.mark.parametrize("options", [(), ("-i",), ("-t",), ("-i", "-t")], ids=lambda options: "".join(options) or "none")
def test_output_input_and_status_in_every_combination(
    start: tuple[str, ...], options: tuple[str, ...], source: str, sink: str, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(b"" if source == "null" else b"input\n")
    words = [
        *PYBOX,
        *on_terminal(start, "sh", "-c", SCRIPT if options != ("-t",) else SCRIPT.removeprefix("cat; "), options=options),
    ]
    with open("/dev/null" if source == "null" else tmp_path / "in", "rb") as file, open(tmp_path / "out", "wb+") as out:
        feed = {"input": b"input\n"} if source == "pipe" else {"stdin": file}
        done = subprocess.run(
            words,
            stdout=out if sink == "file" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
            **feed,  # type: ignore[call-overload]
        )
        out.seek(0)
        said = out.read() if sink == "file" else done.stdout
    if options == ("-i", "-t"):
        assert done.returncode == 125 and b"stdin is not a terminal" in done.stderr and said == b""
        return
    assert done.returncode == 7, done.stderr
    if options == ("-t",):
        assert (said, done.stderr) == (b"out\r\nerr\r\n", b"")
        return
    passed = source != "null" and (start[0] == "run" or options == ("-i",))
    assert (said, done.stderr) == ((b"input\n" if passed else b"") + b"out\n", b"err\n")


def test_every_byte_passes_through_where_there_is_no_terminal(start: tuple[str, ...]) -> None:
    data = bytes(range(256)) * 4096 * (1 if PURE_V2 else 16)
    words = [*PYBOX, *on_terminal(start, "cat", options=("-i",))]
    assert subprocess.run(words, input=data, capture_output=True, timeout=TIMEOUT).stdout == data


def cmdline(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


# --- what a terminal must not be ------------------------------------------------------------------------------------------------


def test_nothing_can_be_typed_into_the_persons_terminal(start: tuple[str, ...]) -> None:
    """CVE-2017-5226: TIOCSTI and TIOCLINUX, through the terminal that is passed on as it is without -t."""
    for options in ((), ("-i",), ("-i", "-t")):
        with Person(*on_terminal(start, "sh", "-c", "inside tiocsti; inside tioclinux; echo over", options=options)) as person:
            person.expect("over")
            assert person.end() == 0
            verdicts = person.text.split()[:2]
            assert len(verdicts) == 2 and "ok" not in verdicts
