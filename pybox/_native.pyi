# What csrc/build.py compiles: the constants and functions of csrc/pybox.h, which cffi describes at run time only.
from typing import Any

ffi: Any
lib: Any
