"""Builds csrc/ into one static library and links it to every Cython module.

pyproject.toml says what the package is; this file says only how its compiled
part comes about.  Everything that is generated stays under build/: no C file
ever stands beside its source, so none can be committed or shipped.

Two words in the environment change the build:

FASTCLUSTER_SANITIZE=1  address and undefined-behaviour sanitizers, in build/sanitize
FASTCLUSTER_ANNOTATE=1  Cython's yellow pages, in build/cython/fastcluster/*.html
"""

import os
import shlex
import shutil
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

SANITIZE = os.environ.get("FASTCLUSTER_SANITIZE") == "1"
ANNOTATE = os.environ.get("FASTCLUSTER_ANNOTATE") == "1"

COMMON = ["-std=c11", "-fPIC", "-fvisibility=hidden"]
COMMON += (
    ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
    if SANITIZE
    else ["-O3", "-g0"]
)
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    # Calls to a plain builtin are cheaper, and the text signature still tells
    # inspect.signature() and help() what they want to know.
    "binding": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",
}

C_SOURCES = sorted(glob("csrc/*.c"))
C_HEADERS = sorted(glob("csrc/*.h"))

NO_COMPILER = (
    "fastcluster needs a C compiler, and {compiler!r} is not one that runs here: install gcc or "
    "clang (Debian, Ubuntu: apt-get install gcc python3-dev; Fedora: dnf install gcc "
    "python3-devel; Alpine: apk add gcc musl-dev python3-dev; macOS: xcode-select --install), or "
    "name yours in CC"
)
NO_HEADERS = (
    "fastcluster needs Python's header files, and {header} is not there: install them (Debian, "
    "Ubuntu: apt-get install python3-dev; Fedora: dnf install python3-devel; Alpine: apk add "
    "python3-dev)"
)


def require_compiler() -> None:
    """Raise PlatformError with the mend if nothing can be compiled here."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    compiler = (shlex.split(command) or ["cc"])[0]
    if shutil.which(compiler) is None:
        raise PlatformError(NO_COMPILER.format(compiler=compiler))
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        raise PlatformError(NO_HEADERS.format(header=header))


class Build(build):
    """The usual build, which looks for a compiler before it does anything."""

    def initialize_options(self) -> None:
        super().initialize_options()
        if SANITIZE:
            self.build_base = os.path.join("build", "sanitize")

    def run(self) -> None:
        require_compiler()
        super().run()


class KeepsWork:
    """A step whose results stay in build/ when pip installs in editable mode.

    Setuptools then hands it a temporary directory, so that every install would
    compile everything anew.
    """

    editable_mode = False

    def finalize_options(self) -> None:
        if self.editable_mode:
            usual = Build(self.distribution)
            usual.ensure_finalized()
            self.build_temp = usual.build_temp
            self.keep_outputs(usual)
        super().finalize_options()


class BuildLibrary(KeepsWork, build_clib):
    """The static library libfc.a."""

    def keep_outputs(self, usual: Build) -> None:
        self.build_clib = usual.build_temp

    def run(self) -> None:
        require_compiler()
        super().run()


class BuildModules(KeepsWork, build_ext):
    """The Cython modules, each linked to libfc.a."""

    def keep_outputs(self, usual: Build) -> None:
        self.build_lib = usual.build_platlib

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        self.run_command("build_clib")
        super().run()

    def build_extensions(self) -> None:
        # Imported here, since a mere question about metadata needs no Cython.
        from Cython.Build import cythonize

        made = cythonize(
            self.extensions,
            build_dir=os.path.join("build", "cython"),
            compiler_directives=DIRECTIVES,
            annotate=ANNOTATE,
            force=ANNOTATE or self.force,
        )
        sources = {extension.name: extension.sources for extension in made}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        super().build_extensions()


def module(path: str) -> Extension:
    """Describe the Cython module whose source is at path."""
    return Extension(
        os.path.splitext(path)[0].replace(os.sep, "."),
        [path],
        include_dirs=["csrc"],
        # libfc.a is remade when one of these changes, and so is what links to it.
        depends=C_SOURCES + C_HEADERS,
        # In this order, since fc itself looks up llhttp with dlsym, which older
        # C libraries keep in a library of its own.
        libraries=["fc", "dl"] if sys.platform == "linux" else ["fc"],
        extra_compile_args=COMMON,
        extra_link_args=["-fsanitize=address,undefined"] if SANITIZE else [],
    )


if __name__ == "__main__":
    setup(
        cmdclass={"build": Build, "build_clib": BuildLibrary, "build_ext": BuildModules},
        libraries=[
            (
                "fc",
                {
                    "sources": C_SOURCES,
                    "obj_deps": {"": C_HEADERS},
                    "include_dirs": ["csrc"],
                    "cflags": COMMON + WARNINGS,
                },
            )
        ],
        ext_modules=[module(path) for path in sorted(glob("fastcluster/*.pyx"))],
    )
