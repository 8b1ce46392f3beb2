"""A plan as rows: each step has one, the id goes where its token is, and the user's words reach exec as they are."""

# ruff: noqa: F811

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from test_plan import IMAGE, PLAIN, at, given, inputs  # noqa: F401

from pybox import native
from pybox.dirs import Dirs
from pybox.image.model import ImageConfig
from pybox.kernel.inputs import Account, Inputs
from pybox.plan import make
from pybox.spec import Mount
from pybox.steps.process import Exec

ROW = struct.Struct("=IIiiIIIIQQQ")


def test_a_program_has_a_row_for_each_step_and_its_texts_are_in_the_blob(given: Inputs) -> None:
    plan = make(given)
    program = plan.lower()
    assert program.count == len(plan.inside) and len(program.rows) == ROW.size * program.count
    assert sorted(number for _, number in program.slots) == list(range(len(program.slots)))
    for op, _, fd, out, a, b, c, d, *_ in ROW.iter_unpack(program.rows):
        assert 0 <= op < native.lib.PB_OP_COUNT if hasattr(native.lib, "PB_OP_COUNT") else op >= 0
        assert all(-1 <= slot < len(program.slots) for slot in (fd, out))
        assert all(
            offset < len(program.blob) and program.blob[offset - 1 : offset] in (b"\0", b"")
            for offset in (a, b, c)
            if op not in _RAW
        )
        assert d < len(program.blob)


_RAW = {native.number("PB_SECCOMP"), native.number("PB_SETGROUPS")}


def test_the_id_goes_where_the_token_is_and_nowhere_else(given: Inputs) -> None:
    program = make(given).lower()
    found = [at for at in range(len(program.blob)) if program.blob.startswith(b"CONTAINER-ID", at)]
    assert list(program.id_at) == found  # nothing in these inputs contains the token by itself
    assert len(native.ID_TOKEN) == 12


def texts_after(program: native.Program, offset: int, count: int) -> list[bytes]:
    """Return the strings that C would read."""
    return program.blob[offset:].split(b"\0")[:count]


def launched(program: native.Program, identity: str = "0123456789ab") -> list[tuple[bytes, ...]]:
    """Return argv, environment and paths of the exec row, with the id filled in."""
    blob = bytearray(program.blob)
    for position in program.id_at:
        blob[position : position + 12] = identity.encode()
    row = ROW.unpack(program.rows[-ROW.size :])
    filled = program.replace(blob=bytes(blob))
    pairs = ((row[4], row[8]), (row[5], row[9]), (row[6], row[10]))
    return [tuple(texts_after(filled, offset, count)) for offset, count in pairs]


WORD = st.sampled_from(["CONTAINER-ID", "xCONTAINER-IDx", "", "a", "/bin/CONTAINER-ID", "caf\udce9"]) | st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=6
)


@hypothesis_given(
    args=st.lists(WORD, max_size=3).map(lambda words: ("CONTAINER-ID", *words)),
    env=st.dictionaries(st.from_regex(r"\A[A-Z]{1,3}\Z"), WORD, max_size=3),
    init=st.booleans(),
    named=st.booleans(),
)
def test_the_users_words_reach_exec_as_they_are(args: tuple[str, ...], env: dict[str, str], init: bool, named: bool) -> None:
    spec = PLAIN.replace(args=args, env=tuple(env.items()), init=init, hostname="CONTAINER-ID" if named else "")
    plan = make(inputs(spec))
    argv, environ, paths = launched(plan.lower())
    assert argv == tuple(map(os.fsencode, args))
    assert set(environ) >= {os.fsencode(f"{name}={value}") for name, value in env.items()}
    assert environ[0] == (b"HOSTNAME=CONTAINER-ID" if named else b"HOSTNAME=0123456789ab")
    assert all(path.endswith(b"/CONTAINER-ID") for path in paths)


def test_a_host_name_a_volume_and_a_tmpfs_that_look_like_the_token_are_left_alone() -> None:
    spec = PLAIN.replace(
        hostname="CONTAINER-ID",
        workdir="/CONTAINER-ID",
        mounts=(Mount("/CONTAINER-ID/a", source="/h/CONTAINER-ID"), Mount("/CONTAINER-ID/t")),
    )
    program = make(inputs(spec, sources=("directory", "tmpfs"))).lower()
    assert program.id_at == ()


def test_a_variable_that_looks_like_the_token_is_left_alone() -> None:
    _, environ, _ = launched(make(inputs(PLAIN.replace(env=(("HOSTNAME", "CONTAINER-ID"),)))).lower())
    assert environ[0] == b"HOSTNAME=CONTAINER-ID"


def test_a_store_whose_path_looks_like_the_token_is_left_alone() -> None:
    program = make(
        inputs(dirs=Dirs("/srv/CONTAINER-ID", "/r"), image=IMAGE.replace(layers=("/srv/CONTAINER-ID/layers/a",)))
    ).lower()
    where = program.blob.index(b"/srv/CONTAINER-ID") + len(b"/srv/")
    assert where not in program.id_at


def test_the_environment_is_pyboxs_then_the_images_then_the_users() -> None:
    spec = PLAIN.replace(env=(("A", "user"), ("PATH", "/x:")))
    _, environ, paths = launched(make(inputs(spec, account=Account(home="/home/me"))).lower())
    assert environ == (b"HOSTNAME=0123456789ab", b"PATH=/x:", b"HOME=/home/me", b"A=user")
    assert paths == (b"/x/ls", b"./ls")


@pytest.mark.parametrize(
    ("config", "spec", "argv"),
    [
        (ImageConfig(cmd=("sh",)), {"args": ()}, ("sh",)),
        (ImageConfig(entrypoint=("e",), cmd=("c",)), {"args": ()}, ("e", "c")),
        (ImageConfig(entrypoint=("e",), cmd=("c",)), {"args": ("x",)}, ("e", "x")),
        (ImageConfig(entrypoint=("e",), cmd=("c",)), {"args": (), "entrypoint": ("n",)}, ("n",)),
        (ImageConfig(entrypoint=("e",), cmd=("c",)), {"args": ("x",), "entrypoint": ()}, ("x",)),
    ],
)
def test_entrypoint_and_command_join_as_in_docker(config: ImageConfig, spec: dict[str, object], argv: tuple[str, ...]) -> None:
    last = make(inputs(PLAIN.replace(**spec), image=IMAGE.replace(config=config))).inside[-1]
    assert isinstance(last, Exec) and last.args == argv
