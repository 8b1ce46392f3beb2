"""The plan of a batch: all of a file is read and checked before anything runs, and is told by one digest from any other batch.

Memory: eight bytes for each job that has a name (two jobs of one name are refused), and nothing for the others. Only where a file
says ``needs`` is there more: what has to wait, and the names that are waited for.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b, sha256

from pybox import fastjson
from pybox.batch.places import BadLine
from pybox.batch.reading import Entry, entries
from pybox.errors import ImageError, SpecError
from pybox.image import store
from pybox.jobs.budget import Budget, Need
from pybox.record import Record
from pybox.units import parse_bytes, parse_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pybox.batch.source import Source
    from pybox.dirs import Dirs
    from pybox.fastjson import Json
    from pybox.jobs.job import Job

_BUCKETS = 256
_NEAR = 100_000  # names among which the nearest one to a misspelt one is looked for


class Batch(Record):
    """A file of jobs that is well-formed. ``members`` and ``needs`` know only names that somebody needs."""

    source: Source
    defaults: Mapping[str, Json]
    count: int
    digest: str
    budget: Budget
    members: Mapping[str, array[int]]  # name -> indexes of the jobs that it stands for
    needs: Mapping[int, tuple[str, ...]]  # index -> names

    def entries(self) -> Iterator[Entry]:
        """Yield its jobs, read again."""
        return entries(self.source, self.defaults)


def need(job: Job) -> Need:
    """Return what a job promises, without making its Spec."""
    options = job.options()
    if "memory" not in options and "cpus" not in options:
        return Need()
    return Need(parse_bytes("memory", options.get("memory")) or 0, parse_cpus("cpus", options.get("cpus")) or 0.0)


def check(source: Source, defaults: Mapping[str, Json], budget: Budget, where: Dirs) -> Batch:
    """Return the batch of a file. Raises BadLine for the first thing in it that can't be meant, ImageNotFound's reason included."""
    digest, names, images = sha256(), _Names(), set[str]()
    wanted: set[str] = set()
    count = 0
    for entry in entries(source, defaults):
        try:
            _check_one(entry, budget, images, where)
        except SpecError as error:
            raise entry.place.bad(error) from None
        count += 1
        digest.update(fastjson.dumps([entry.job.to_json(), entry.needs]).encode() + b"\n")
        names.add(entry.job.name)
        if entry.heads:
            names.add(entry.group)
        wanted.update(entry.needs)
    if not count:
        raise SpecError("file", source.name, "has no jobs in it")
    if names.twice():
        _refuse_twins(source, defaults)
    batch = Batch(source, defaults, count, digest.hexdigest(), budget, {}, {})
    return _with_needs(batch, wanted) if wanted else batch


def _check_one(entry: Entry, budget: Budget, images: set[str], where: Dirs) -> None:
    job = entry.job
    if job.image not in images:
        try:
            store.find(where, job.image)
        except ImageError as error:
            raise SpecError("image", "", error.message, error.hint) from None
        images.add(job.image)
    wants = need(job)
    never = budget.never(wants)
    if never:
        field = "memory" if wants.memory > budget.memory else "cpus"
        raise SpecError(field, str(job.options().get(field)), never, "a job that can never run stops the others from none")


class _Names:
    """Whether a name comes twice, in eight bytes for each: by their digests, in buckets that are sorted one at a time."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(_BUCKETS)]

    def add(self, name: str) -> None:
        if name:
            number = int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
            self._buckets[number % _BUCKETS].append(number)

    def twice(self) -> bool:
        """Return whether two digests are the same: then the names have to be looked at."""
        return any(len(set(bucket)) != len(bucket) for bucket in self._buckets)


def _refuse_twins(source: Source, defaults: Mapping[str, Json]) -> None:
    """Raise BadLine for the second of two jobs of one name. Now the names themselves are kept: it is the end of this batch."""
    seen: dict[str, Entry] = {}
    for entry in entries(source, defaults):
        for name in (entry.job.name, entry.group if entry.heads else ""):
            if name and name in seen:
                line = seen[name].place.at(("name",))[0]
                raise entry.place.bad(SpecError("name", name, f"is the name of the job of line {line} already"))
            if name:
                seen[name] = entry


# --- needs -------------------------------------------------------------------------------------------------------------------


def _with_needs(batch: Batch, wanted: set[str]) -> Batch:
    members: dict[str, array[int]] = {}
    needs: dict[int, tuple[str, ...]] = {}
    for index, entry in enumerate(batch.entries()):
        for name in {entry.job.name, entry.group} & wanted:
            members.setdefault(name, array("Q")).append(index)
        if entry.needs:
            needs[index] = entry.needs
    unknown = wanted - members.keys()
    if unknown:
        raise _at(batch, lambda index, entry: bool(unknown & set(entry.needs)), lambda entry: _unknown(batch, entry, unknown))
    cycle = _cycle(members, needs)
    if cycle:
        names = {index: entry.job.name for index, entry in enumerate(batch.entries()) if index in cycle}
        way = " needs ".join(names[index] for index in [*cycle, cycle[0]])
        raise _at(batch, lambda index, entry: index == cycle[0], lambda entry: SpecError("needs", "", f"a circle: {way}"))
    return batch.replace(members=members, needs=needs)


def _at(batch: Batch, there: Callable[[int, Entry], bool], error: Callable[[Entry], SpecError]) -> BadLine:
    """Return an error with the place of the first job that is meant."""
    entry = next(entry for index, entry in enumerate(batch.entries()) if there(index, entry))
    return entry.place.bad(error(entry))


def _unknown(batch: Batch, entry: Entry, unknown: set[str]) -> SpecError:
    from difflib import get_close_matches
    from itertools import islice

    name = next(name for name in entry.needs if name in unknown)
    names = {name for other in islice(batch.entries(), _NEAR) for name in (other.job.name, other.group) if name}
    near = get_close_matches(name, names, 1, 0.6)
    return SpecError("needs", name, "no job of that name", f"did you mean {near[0]}?" if near else None)


def _cycle(members: Mapping[str, array[int]], needs: Mapping[int, tuple[str, ...]]) -> list[int]:
    """Return the jobs of a circle, each needs the next; [] when there is none. Depth first, without recursion."""
    done: set[int] = set()
    for start in needs:
        path: dict[int, None] = {}
        todo = [(start, _needed(start, members, needs))]
        path[start] = None
        while todo:
            index, further = todo[-1]
            step = next(further, None)
            if step is None:
                todo.pop()
                del path[index]
                done.add(index)
            elif step in path:
                circle = list(path)
                return circle[circle.index(step) :]
            elif step in needs and step not in done:
                path[step] = None
                todo.append((step, _needed(step, members, needs)))
    return []


def _needed(index: int, members: Mapping[str, array[int]], needs: Mapping[int, tuple[str, ...]]) -> Iterator[int]:
    return (member for name in needs[index] for member in members[name])
