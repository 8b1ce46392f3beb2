"""Many command lines one after the other, each in a fork of one process that has loaded pybox: a third of the price of starting each.

    PYTHON -IS tests/system/forks.py STDIN <COMMANDS        [[WORD, ...], ...] in, [[STATUS, STDOUT, STDERR], ...] out, as JSON

For what has to be tried hundreds of times, a race or each fd; that a command starts is what the other tests are for.
"""

import gc
import json
import os
import sys
import tempfile
from importlib import import_module

gc.set_threshold(50_000)
sys.path += [
    f"{sys.executable.rpartition('/bin/')[0]}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages",
    __file__.rpartition("/tests/")[0],
]
from pybox.cli.commands import COMMANDS  # noqa: E402
from pybox.cli.main import main  # noqa: E402

work, stdin = json.load(sys.stdin), sys.argv.pop()
for name in {words[0] for words in work}:
    import_module(f"pybox.cli.{next(command.module for command in COMMANDS if command.name == name)}")
ends = []
for words in work:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            os.dup2(os.open(stdin, os.O_RDONLY | os.O_CLOEXEC), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv[1:] = words
            main()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="surrogateescape"))
        ends.append((status, *texts))
json.dump(ends, sys.stdout)
