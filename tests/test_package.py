"""What is published: names and versions, and what the sdist and the wheel hold and do.

Those marked `package` build, mend and install as a user would, with pip's
isolation; `make package` runs them.
"""

import email
import http.client
import importlib.metadata
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from require import require_module

import fastcluster

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastcluster"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.pyx"))
VERSION = re.search(r'^__version__ = "(.+)"$', (PACKAGE / "__init__.py").read_text(), re.M)[1]

# Trees that the sdist holds whole, and the files beside them.
SHIPPED_TREES = ["csrc", "fastcluster", "tests", "benchmarks", "docs", "examples"]
SHIPPED_FILES = [
    ".clang-format",
    "CHANGELOG.md",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "setup.py",
]
# What setuptools adds.
GENERATED_FILES = ["PKG-INFO", "setup.cfg"]

NO_COMPILER = "fastcluster needs a C compiler, and '/nonexistent' is not one that runs here"

package = [pytest.mark.package, pytest.mark.timeout(600)]


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it; both its outputs are in stdout."""
    return subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def run_well(*command: object, **options: object) -> str:
    """Run a command that must succeed and return what it said."""
    __tracebackhide__ = True
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without what steers fastcluster or its build."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FASTCLUSTER_", "PYTHON"))}
    return {**kept, **more}


# ---- names and versions


def test_the_version_is_said_in_one_place():
    assert fastcluster.__version__ == VERSION
    installed = importlib.metadata.version("fastcluster-server")
    assert installed == VERSION, "install again: pip install -e ."
    for file in ("pyproject.toml", "setup.py"):
        assert f'"{VERSION}"' not in (ROOT / file).read_text()


def test_the_changelog_begins_with_this_version():
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert sections[0] == VERSION


def test_the_distribution_is_named_apart_from_the_package():
    about = importlib.metadata.metadata("fastcluster-server")
    assert about["Name"] == "fastcluster-server"
    assert about["Requires-Python"] == ">=3.11"
    assert about["License-Expression"] == "MIT"
    scripts = importlib.metadata.distribution("fastcluster-server").entry_points
    assert [(s.group, s.name, s.value) for s in scripts] == [
        ("console_scripts", "fastcluster", "fastcluster.cli:main")
    ]


def test_the_package_is_typed():
    assert (Path(fastcluster.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", MODULES)
def test_a_compiled_module_has_a_stub(name):
    assert (PACKAGE / f"{name}.pyi").exists()


@pytest.mark.parametrize("name", MODULES)
def test_no_generated_c_stands_beside_its_source(name):
    assert not (PACKAGE / f"{name}.c").exists()


# ---- a machine that cannot compile


def say_without_compiler(*prelude: str, **environment: str) -> str:
    """Run setup.py's build where it must fail; return what it said."""
    setup = "; ".join(
        [
            "import runpy, sys, sysconfig",
            "sys.argv = ['setup.py', '--quiet', 'build']",
            *prelude,
            "runpy.run_path('setup.py', run_name='__main__')",
        ]
    )
    done = run(sys.executable, "-c", setup, cwd=ROOT, env=clean_environment(**environment))
    assert done.returncode == 1
    return done.stdout


def test_a_missing_compiler_is_one_line_that_names_the_mend():
    said = say_without_compiler(CC="/nonexistent")
    assert said.count("\n") == 1
    assert said.startswith(f"error: {NO_COMPILER}")
    assert "apt-get install gcc" in said


def test_missing_python_headers_are_one_line_that_names_the_mend():
    said = say_without_compiler(
        "usual = sysconfig.get_path",
        "sysconfig.get_path = lambda name, *a, **k:"
        " '/nonexistent' if name == 'include' else usual(name, *a, **k)",
    )
    assert said.count("\n") == 1
    assert said.startswith("error: fastcluster needs Python's header files, and /nonexistent")
    assert "apt-get install python3-dev" in said


# ---- what is published


@dataclass(frozen=True)
class Published:
    """One sdist, and the wheel that was built from it."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    require_module("build", package="build")
    out = tmp_path_factory.mktemp("dist")
    # The wheel is made from the unpacked sdist, so what the sdist lacks, it lacks.
    run_well(sys.executable, "-m", "build", "--outdir", out, ROOT, env=clean_environment())
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return Published(sdist, wheel)


@pytest.fixture(scope="session")
def mended(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel as auditwheel passes it for any Linux of its age."""
    if sys.platform != "linux":
        pytest.skip("auditwheel mends Linux wheels only")
    require_module("auditwheel", package="auditwheel")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    out = tmp_path_factory.mktemp("mended")
    run_well(
        sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", out, published.wheel,
        env=clean_environment(PATH=path),
    )  # fmt: skip
    (wheel,) = out.glob("*.whl")
    return wheel


def shipped_files() -> set[str]:
    files = set(SHIPPED_FILES)
    for tree in SHIPPED_TREES:
        for path in (ROOT / tree).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so":
                files.add(str(path.relative_to(ROOT)))
    return files


class TestPublished:
    pytestmark = package

    def test_the_sdist_holds_the_sources_and_nothing_else(self, published):
        with tarfile.open(published.sdist) as archive:
            names = [m.name.split("/", 1)[1] for m in archive.getmembers() if m.isfile()]
        held = {name for name in names if not name.startswith("fastcluster_server.egg-info/")}
        assert held == shipped_files() | set(GENERATED_FILES)

    def test_the_wheel_holds_what_runs_and_nothing_else(self, published):
        with zipfile.ZipFile(published.wheel) as archive:
            held = set(archive.namelist())
        about = f"fastcluster_server-{VERSION}.dist-info"
        expected = {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD")}
        expected |= {f"{about}/entry_points.txt", f"{about}/top_level.txt"}
        expected |= {f"{about}/licenses/LICENSE", "fastcluster/py.typed"}
        expected.add("fastcluster/dashboard.html")
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        expected |= {f"fastcluster/{name}{suffix}" for name in MODULES}
        for pattern in ("*.py", "*.pyi"):
            expected |= {f"fastcluster/{path.name}" for path in PACKAGE.glob(pattern)}
        assert held == expected

    def test_the_wheel_says_what_it_is(self, published):
        with zipfile.ZipFile(published.wheel) as archive:
            text = archive.read(f"fastcluster_server-{VERSION}.dist-info/METADATA").decode()
        about = email.message_from_string(text)
        assert (about["Name"], about["Version"]) == ("fastcluster-server", VERSION)
        needed = [need for need in about.get_all("Requires-Dist") if "extra ==" not in need]
        assert sorted(re.match(r"[\w-]+", need)[0] for need in needed) == ["click", "httptools"]
        assert about.get_payload().strip(), "the README is the description"

    def test_the_wheel_can_be_mended_for_other_linuxes(self, mended):
        assert "manylinux" in mended.name

    def test_the_mended_wheel_serves(self, mended, tmp_path):
        serve_once(install(mended, tmp_path), tmp_path)

    def test_the_sdist_serves(self, published, tmp_path):
        serve_once(install(published.sdist, tmp_path), tmp_path)

    def test_pip_passes_on_the_line_about_a_missing_compiler(self, published, tmp_path):
        done = run(
            sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, published.sdist,
            env=clean_environment(CC="/nonexistent"),
        )  # fmt: skip
        assert done.returncode != 0
        assert done.stdout.count(NO_COMPILER) == 1
        assert "Traceback" not in done.stdout


def install(what: Path, tmp_path: Path) -> Path:
    """Install into a new virtual environment, as a user would; return its bin directory."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=True, symlinks=True)
    run_well(home / "bin" / "python", "-m", "pip", "install", what, env=clean_environment())
    return home / "bin"


WSGI_APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"from the installed package"]
"""


def serve_once(programs: Path, tmp_path: Path) -> None:
    """Serve one application and one request with the installed command, then end it."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "hello.py").write_text(WSGI_APP)
    said = run_well(programs / "fastcluster", "--version", cwd=folder, env=clean_environment())
    assert VERSION in said
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # The socket listens already, so the client may come before the server does.
        fd = listener.fileno()
        command = [programs / "fastcluster", "serve", "hello:app", "-b", f"fd://{fd}", "-w", "1"]
        server = subprocess.Popen(command, cwd=folder, env=clean_environment(), pass_fds=[fd])
        try:
            client = http.client.HTTPConnection(*listener.getsockname(), timeout=30)
            client.request("GET", "/")
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b"from the installed package")
            client.close()
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
        finally:
            server.kill()
            server.wait()
