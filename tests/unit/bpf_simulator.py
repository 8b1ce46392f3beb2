"""A classic BPF machine for seccomp programs, as strict as the kernel's checker (bpf_check_classic, seccomp_check_filter)."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, pack, unpack_from

INSTRUCTION = Struct("<HBBI")
X86_64 = 0xC000003E
AARCH64 = 0xC00000B7
ARCH = {"x86_64": X86_64, "aarch64": AARCH64}
JUMPS = {0x15: lambda a, k: a == k, 0x25: lambda a, k: a > k, 0x35: lambda a, k: a >= k, 0x45: lambda a, k: bool(a & k)}

Program = list[tuple[int, int, int, int]]


def decode(code: bytes) -> Program:
    """Return (op, jt, jf, k) of each instruction; AssertionError for a program the kernel would refuse."""
    assert code and len(code) % 8 == 0
    program = list(INSTRUCTION.iter_unpack(code))
    assert len(program) <= 4096
    for place, (op, yes, no, k) in enumerate(program):
        left = len(program) - place - 1
        if op == 0x20:
            assert k % 4 == 0 and k < 64
        elif op in JUMPS:
            assert yes < left and no < left
        elif op == 0x05:
            assert k < left
        else:
            assert op in (0x06, 0x54), f"opcode {op:#x}"
    assert program[-1][0] == 0x06
    return program


def walk(program: Program, number: int, args: Sequence[int] = (), arch: int = X86_64) -> tuple[int, int]:
    """Return the verdict for one system call, and after how many instructions."""
    data = pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0x7F0000000000, *args, *[0] * (6 - len(args)))
    place = a = count = 0
    while True:
        op, yes, no, k = program[place]
        place += 1
        count += 1
        if op == 0x20:
            (a,) = unpack_from("<I", data, k)
        elif op == 0x54:
            a &= k
        elif op == 0x05:
            place += k
        elif op == 0x06:
            return k, count
        else:
            place += yes if JUMPS[op](a, k) else no


def run(program: Program, number: int, args: Sequence[int] = (), arch: int = X86_64) -> int:
    """Return the verdict for one system call."""
    return walk(program, number, args, arch)[0]
