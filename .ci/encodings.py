"""The codecs that an installed pybox starts with, see .ci/interpreter.

Before anything of a program, an interpreter loads this package, with a table of every name that a codec ever had, and asks it for
UTF-8. This one knows only that; asked for anything else, it becomes the standard library's.
"""

import codecs

STANDARD = ""  # written here when it is compiled
__path__.append(f"{STANDARD}/encodings")  # noqa: F821


def _find(name):
    if name in ("utf_8", "utf-8", "utf8"):
        from encodings.utf_8 import getregentry

        return getregentry()
    _become_all()
    return search_function(name)  # noqa: F821 - now there is one


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    _become_all()
    return globals()[name]


def _become_all():
    from importlib.machinery import SourceFileLoader

    codecs.unregister(_find)
    del globals()["__getattr__"]
    loader = SourceFileLoader("encodings", f"{STANDARD}/encodings/__init__.py")
    exec(loader.get_code("encodings"), globals())


codecs.register(_find)
