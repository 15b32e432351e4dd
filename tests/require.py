"""What a test needs from the machine: present, or the test is skipped with the mend.

A developer's machine may lack a program, so the test skips and says which
package has it.  In CI (FASTCLUSTER_CI=1) everything is installed, so the same
lack is a failure: no test may vanish there without a word.
"""

import importlib
import os
import shutil
from types import ModuleType
from typing import NoReturn

import pytest


def _lack(what: str, package: str) -> NoReturn:
    reason = f"{what} is not installed: it comes with the package {package}"
    if os.environ.get("FASTCLUSTER_CI") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_program(name: str, *, package: str) -> str:
    """Return the path of the program `name`; skip, or fail in CI, where there is none.

    `package` is what the reader should install to have it, by its Debian name.
    """
    path = shutil.which(name)
    if path is None:
        _lack(f"the program {name}", package)
    return path


def require_module(name: str, *, package: str) -> ModuleType:
    """Import and return the module `name`; skip, or fail in CI, where there is none.

    `package` is its distribution's name for pip.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        _lack(f"the module {name}", package)
