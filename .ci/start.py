"""The start of an installed pybox, compiled into it by .ci/bundle; .ci/launcher executes it with ``library`` set.

The collector's threshold: while modules load there is no garbage, and looking for it at every 700 objects costs a millisecond. A
bundle saves two or three more; its modules are made first and executed then, in the order in which they need each other.
"""

import gc
import marshal
import sys

gc.set_threshold(50_000)


# The network namespace that nearly every run of root takes is made by another thread while the rest is loading.
early = sys.argv[1:2] == ["run"] and not any(word.startswith(("--net", "--userns", "--system")) for word in sys.argv)


def load(name):
    try:
        with open(f"{library}/{name}-{sys.implementation.cache_tag}.bundle", "rb") as file:  # noqa: F821
            bundle = marshal.loads(file.read())
    except OSError:
        return
    new = type(sys)
    for name, path, package, _ in bundle:
        module = sys.modules[name] = new(name)
        module.__file__ = path
        module.__package__ = package
        if package == name:
            module.__path__ = [path.rpartition("/")[0]]
    for name, _, _, code in bundle:
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, sys.modules[name])
        exec(code, sys.modules[name].__dict__)
        if name == "pybox.native" and early:
            sys.modules[name].order_network()


if sys.argv[1:2] in (["run"], ["exec"], ["ps"], ["explain"]):
    load(sys.argv[1])
    if "pybox.bundle" in sys.modules:
        sys.modules["pybox.bundle"].more = lambda: load("run-more")
from pybox.cli.main import main  # noqa: E402

main()
