"""Stages: what each FROM begins, which of them the target needs, and what ARG before the first FROM says of their images."""

from __future__ import annotations

from pybox.containerfile import checking
from pybox.containerfile.words import WordError, expand
from pybox.image import store
from pybox.image.reference import HOST
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pybox.containerfile.reading import Containerfile, Instruction

SCRATCH = "scratch"
PROXIES = frozenset(
    name for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy") for name in (word, word.upper())
)


class Stage(Record):
    """One stage. ``base`` is an image's name, "scratch", or the number of an earlier stage."""

    number: int
    name: str  # "" if it has none
    base: str | int
    begin: Instruction
    instructions: tuple[Instruction, ...]

    def copies_from(self) -> list[tuple[Instruction, str]]:
        """Return (COPY, value of its --from) where there is one."""
        return [(each, dict(each.flags)["from"]) for each in self.instructions if "from" in dict(each.flags)]


class Layout(Record):
    """What is to be built, in order, and the values of ARG before the first FROM."""

    stages: tuple[Stage, ...]
    globals: tuple[tuple[str, str], ...]
    used: frozenset[str]  # build arguments that stand in an ARG somewhere

    def find(self, wanted: str, before: int) -> int | None:
        """Return the number of the stage that a name or number means, among those before one; None: it is an image's."""
        for stage in reversed(self.stages):
            if stage.number < before and wanted.lower() in (stage.name, str(stage.number)):
                return stage.number
        return None


_ALIASES = {"arm64": ("linux/arm64/v8",), "amd64": ("linux/amd64/v1", "linux/x86_64"), "arm": ("linux/arm/v7",)}


def buildable(platform: str) -> bool:
    """Return whether a platform, as it is typed, is this machine's own."""
    machine = store.architecture()
    return platform in (f"linux/{machine}", *_ALIASES.get(machine, ()))


def platform() -> dict[str, str]:
    """Return the arguments that say what is built on what: BuildKit's names."""
    machine = store.architecture()
    both = {"PLATFORM": f"linux/{machine}", "OS": "linux", "ARCH": machine, "VARIANT": ""}
    return {f"{side}{name}": value for side in ("TARGET", "BUILD") for name, value in both.items()}


def layout(file: Containerfile, given: Mapping[str, str], target: str = "") -> Layout:
    """Return the stages that the target (the last one, if "") needs. Raises ContainerfileError."""
    values = platform()
    automatic = frozenset(values)
    said: dict[str, str] = {}
    stages: list[Stage] = []
    rows: list[list[Instruction]] = []
    for instruction in file.instructions:
        if instruction.word == "FROM":
            stages.append(_begun(file, instruction, {**values, **said}, stages))
            rows.append([])
        elif rows:
            rows[-1].append(instruction)
        elif instruction.word != "ARG":
            raise file.wrong(instruction.line, f"{instruction.word} before the first FROM", "only ARG may stand there")
        else:
            for name, default in checking.arguments(instruction.text, file.escape):
                value = given.get(name, values.get(name) if name in automatic else None)
                if value is None and default is not None:
                    value = _expanded(file, instruction, default, {**values, **said})
                if value is not None:
                    said[name] = value
    if not stages:
        raise file.wrong(file.instructions[-1].line, "no FROM")
    whole = tuple(stage.replace(instructions=tuple(row)) for stage, row in zip(stages, rows, strict=True))
    used = {name for each in file.instructions if each.word == "ARG" for name, _ in checking.arguments(each.text, file.escape)}
    everything = Layout(whole, tuple({**values, **said}.items()), frozenset(used))
    return everything.replace(stages=_needed(file, everything, target))


def _expanded(file: Containerfile, instruction: Instruction, text: str, values: Mapping[str, str]) -> str:
    try:
        return expand(text, values, file.escape)
    except WordError as error:
        raise file.wrong(instruction.line, f"{instruction.word}: {error}") from None


def _begun(file: Containerfile, instruction: Instruction, values: Mapping[str, str], before: list[Stage]) -> Stage:
    image, *rest = instruction.text.split()
    base = _expanded(file, instruction, image, values)
    if not base:
        raise file.wrong(instruction.line, f"FROM {image}: that is empty", "give the ARG a default, or --build-arg")
    wanted = _expanded(file, instruction, dict(instruction.flags).get("platform", ""), values)
    if wanted and not buildable(wanted):
        reason = f"--platform={wanted}: only linux/{store.architecture()} can be built here"
        raise file.wrong(instruction.line, reason, "RUN needs programs that this machine can run")
    name = rest[1].lower() if rest else ""
    if name and (not (name[0].isascii() and name[0].isalpha()) or not all(c.isalnum() or c in "-_." for c in name)):
        raise file.wrong(instruction.line, f"{name} is no name for a stage", "a letter, then letters, digits, - _ and .")
    if name and any(stage.name == name for stage in before):
        raise file.wrong(instruction.line, f"a second stage {name}")
    number = next((stage.number for stage in before if stage.name and stage.name == base.lower()), None)
    if base == HOST:
        raise file.wrong(instruction.line, "FROM host: the machine's own root is no image to build on")
    return Stage(len(before), name, base if number is None else number, instruction, ())


def _needed(file: Containerfile, everything: Layout, target: str) -> tuple[Stage, ...]:
    last = len(everything.stages) - 1
    if target:
        found = everything.find(target, len(everything.stages))
        if found is None:
            names = ", ".join(stage.name for stage in everything.stages if stage.name) or "none has a name"
            raise file.wrong(0, f"no stage {target}", f"its stages: {names}")
        last = found
    wanted, waiting = set[int](), [last]
    while waiting:
        stage = everything.stages[waiting.pop()]
        if stage.number in wanted:
            continue
        wanted.add(stage.number)
        if isinstance(stage.base, int):
            waiting.append(stage.base)
        for instruction, source in stage.copies_from():
            found = everything.find(source, stage.number)
            if found is not None:
                waiting.append(found)
            elif source == HOST:
                raise file.wrong(instruction.line, "COPY --from=host: the machine's own files are not for a build to take")
            elif source.isdigit():
                raise file.wrong(instruction.line, f"COPY --from={source}: there is no such stage before this one")
    return tuple(stage for stage in everything.stages if stage.number in wanted)
