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

LIBRARY = ""  # written here when it is compiled
gc.set_threshold(50_000)
del sys.argv[0]
sys.path.append(LIBRARY)  # last, so that nothing in it hides a module of the standard library
# The network namespace that nearly every run of root takes is made by another thread while the rest is loading.
early = sys.argv[1:2] == ["run"] and not any(word.startswith(("--net", "--userns", "--system")) for word in sys.argv)
later = {}  # what a bundle has besides, by name: (path, marshalled code), without code where it is an extension


class Finder:
    """Finds what is loaded only when somebody imports it; and extensions, for which the usual finder lists three directories."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in later:
            return None
        path, code = later.pop(name)
        if code is None:
            return ModuleSpec(name, ExtensionFileLoader(name, path), origin=path) if posix.access(path, posix.R_OK) else None
        spec = ModuleSpec(name, Loader(code), origin=path)
        spec.has_location = True
        return spec


class Loader:
    def __init__(self, code):
        self.code = code

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(marshal.loads(self.code), module.__dict__)


def load(name):
    try:
        fd = posix.open(f"{LIBRARY}/{name}-{sys.implementation.cache_tag}.bundle", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return
    bundle = marshal.loads(posix.read(fd, posix.fstat(fd).st_size))
    posix.close(fd)
    new, now = type(sys), []
    for name, path, package, code in bundle:
        if code is None or isinstance(code, bytes):
            later[name] = path, code
            continue
        module = sys.modules[name] = new(name)
        module.__file__ = path
        module.__package__ = package
        if package == name:
            module.__path__ = [path.rpartition("/")[0]]
        now.append((name, module, code))
    for name, module, code in now:
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
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
