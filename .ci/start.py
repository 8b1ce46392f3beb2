"""The start of an installed pybox, compiled into it by .ci/interpreter: PYTHON -c "import start" PYBOX WORDS...

The collector's threshold: while modules load there is no garbage, and looking for it at every 700 objects costs a millisecond. A
bundle saves two or three more; its modules are made first and executed then, in the order in which they need each other.
"""

import gc
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from _thread import RLock

LIBRARY = ""  # written here when it is compiled
gc.set_threshold(50_000)
del sys.argv[0]
sys.path.append(LIBRARY)  # last, so that nothing in it hides a module of the standard library
# The network namespace that nearly every run of root takes is made by another thread while the rest is loading.
early = sys.argv[1:2] == ["run"] and not any(word.startswith(("--net", "--userns", "--system")) for word in sys.argv)
extensions = {}  # of a bundle: name and path


class Finder:
    """Finds the extensions, for which the usual finder lists three directories."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        path = extensions.pop(name, None)
        if path is None or not posix.access(path, posix.R_OK):
            return None
        return ModuleSpec(name, ExtensionFileLoader(name, path), origin=path)


def postpone(module, code):
    """Have a module executed when somebody first asks it for something: it is imported by all such commands, and used by few."""
    lock, begun = RLock(), []

    def __getattr__(name):
        if name.startswith("__"):
            raise AttributeError(name)
        with lock:
            if not begun:
                begun.append(True)
                exec(marshal.loads(code), module.__dict__)
                del module.__getattr__
        try:
            return module.__dict__[name]
        except KeyError:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}") from None

    module.__getattr__ = __getattr__


def load(name):
    try:
        fd = posix.open(f"{LIBRARY}/{name}-{sys.implementation.cache_tag}.bundle", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return
    bundle = marshal.loads(posix.read(fd, posix.fstat(fd).st_size))
    posix.close(fd)
    new, modules = type(sys), []
    for name, path, package, code in bundle:
        if code is None:
            extensions[name] = path
            continue
        module = sys.modules[name] = new(name)
        module.__file__ = path
        module.__package__ = package
        if package == name:
            module.__path__ = [path.rpartition("/")[0]]
        modules.append((name, module, code))
    for name, module, code in modules:
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
        if isinstance(code, bytes):
            postpone(module, code)
            continue
        exec(code, module.__dict__)
        if name == "pybox.native" and early:
            module.order_network()


sys.meta_path.insert(0, Finder)
if sys.argv[1:2] in (["run"], ["exec"], ["ps"], ["explain"]):
    load(sys.argv[1])
    if "pybox.bundle" in sys.modules:
        sys.modules["pybox.bundle"].more = lambda: load("run-more")
from pybox.cli.main import main  # noqa: E402

main()
