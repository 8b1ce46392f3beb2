import runpy

from setuptools import setup

build = runpy.run_path("csrc/build.py")
setup(cffi_modules=["csrc/build.py:ffi"], cmdclass={"build_py": build["BuildWithInit"]})
