"""The one thing that pyproject.toml can't say for good yet: the compiled codec, which is optional. Where it can't be
built, for want of a compiler or of Python's headers, the installation goes on and the codec's Python twin is used."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("gateway.core._http1", ["gateway/core/_http1.c"], optional=True)])
