"""pybox as `make install` lets it start, isolated and without site, but from the checkout that is tested:

    PYTHON -IS tests/system/command.py WORDS...

In a virtualenv site is half of what a short command costs, and the tests give thousands. It does what .ci/launcher and .ci/start.py
do, without their compiled modules, which would be of one state of the checkout.
"""

import gc
import sys

gc.set_threshold(50_000)
sys.path += [
    f"{sys.executable.rpartition('/bin/')[0]}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages",
    __file__.rpartition("/tests/")[0],
]
from pybox.cli.main import main  # noqa: E402

main()
