"""Loading, finding and recognising applications, and the words for what is wrong."""

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastcluster import apps
from fastcluster.errors import AppLoadError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for modules, which are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(folder)


SITE = """
class Namespace:
    pass

def site(environ, start_response):
    return [b"site"]

inner = Namespace()
inner.deeper = Namespace()
inner.deeper.app = site
number = 3

def create_site():
    return site

def create_nothing():
    return None

def needs(something):
    return site
"""


# ---- loading

LOADED = [
    ({"one.py": SITE}, "one:site", False),
    ({"one.py": SITE}, "one:inner.deeper.app", False),
    ({"one.py": SITE}, "one:create_site", True),
    ({"one.py": SITE + "app = site\n"}, "one", False),
    ({"one.py": SITE + "application = site\n"}, "one", False),
    ({"one.py": SITE + "application = 3\napp = site\n"}, "one", False),
    ({"one.py": SITE + "create_app = create_site\napp = 3\n"}, "one", True),
    ({"pack/__init__.py": "", "pack/two.py": SITE}, "pack.two:site", False),
    ({"space/two.py": SITE}, "space.two:site", False),
]


@pytest.mark.parametrize(("files", "spec", "factory"), LOADED)
def test_an_application_is_loaded(
    folder: Path, files: dict[str, str], spec: str, factory: bool
) -> None:
    app = apps.load(spec, write(folder, files), factory)
    assert app({}, None) == [b"site"]


def test_the_folder_comes_first_on_the_path(folder: Path) -> None:
    sys.path.append(str(folder))
    apps.load("one:site", write(folder, {"one.py": SITE}))
    assert sys.path[0] == str(folder)


REFUSED = [
    # Modules that are not there.
    ("ome:site", False, "there is no module 'ome' in '{}': did you mean 'one:site'?"),
    ("ome", False, "there is no module 'ome' in '{}': did you mean 'one:app'?"),
    ("zzz:app", False, "there is no module 'zzz' in '{}': name another one, or the folder"),
    ("pack.tow:app", False, "there is no module 'pack.tow' in package 'pack': did you mean"),
    ("pack.tow:app", False, "did you mean 'pack.two:app'?"),
    ("pakc.two:app", False, "did you mean 'pack.two:app'?"),
    ("one.two:app", False, "there is no module 'one.two' in package 'one'"),
    # Words that are no names.
    ("one.py", False, "'one.py' is a file, not a module: did you mean 'one:app'?"),
    ("one.py:site", False, "'one.py:site' is a file, not a module: did you mean 'one:site'?"),
    ("./pack/two.py", False, "did you mean 'pack.two:app'?"),
    ("pack/two:site", False, "'pack/two:site' is a path, not a module: did you mean 'pack.two:s"),
    ("one:create_site()", False, "calls a function: did you mean --factory one:create_site?"),
    ("one:create_site('x')", False, "calls a function: did you mean --factory one:create_site?"),
    ("one:", False, "'one:' is no name of an application: write it as module:name"),
    (":site", False, "':site' is no name of an application"),
    ("", False, "'' is no name of an application"),
    ("one site", False, "'one site' is no name of an application"),
    ("one:site:more", False, "'one:site:more' is no name of an application"),
    # Names that are not there.
    ("one:sit", False, "module 'one' has no 'sit': did you mean 'one:site'?"),
    ("one:inner.deep.app", False, "object 'one:inner' has no 'deep': did you mean 'one:inner.de"),
    ("one:zzz", False, "module 'one' has no 'zzz': did you mean --factory one:create_site?"),
    ("one", False, "module 'one' has no app and no application: did you mean --factory one:crea"),
    ("pack.two:zzz", False, "module 'pack.two' has no 'zzz': it has pack.two:handler"),
    ("pack:zzz", False, "module 'pack' has no 'zzz': name the application as module:name"),
    # Objects that are none.
    ("one:number", False, "'one:number' is an int, not an application"),
    ("one:number", True, "'one:number' is an int and makes no application: leave --factory out"),
    ("one:needs", True, "'one:needs' cannot be called without arguments, as a factory is"),
    ("one:create_nothing", True, "'one:create_nothing' returned a NoneType, not an application"),
]


@pytest.mark.parametrize(("spec", "factory", "words"), REFUSED)
def test_what_is_wrong_is_said_in_one_line(
    folder: Path, spec: str, factory: bool, words: str
) -> None:
    pack = {"pack/__init__.py": "", "pack/two.py": "def handler(request): pass\n"}
    where = write(folder, {"one.py": SITE, **pack})
    with pytest.raises(AppLoadError) as caught:
        apps.load(spec, where, factory)
    assert words.format(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.detail == ""


def test_a_suggestion_survives_objects_that_answer_no_questions(folder: Path) -> None:
    where = write(folder, {"one.py": "from flask import Flask, request\nweb = Flask('x')\n"})
    with pytest.raises(AppLoadError, match="has no app and no application: it has one:web"):
        apps.load("one", where)


FAILING = [
    ("import flsk_is_not_there\n", "while it was imported: ModuleNotFoundError: No module named"),
    ("import json\njson.loads('{')\n", "while it was imported: json.decoder.JSONDecodeError"),
    ("def broken(:\n", "while it was imported: SyntaxError: invalid syntax"),
    ("1 / 0\n", "while it was imported: ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("content", "words"), FAILING)
def test_the_errors_of_the_application_stay_its_own(folder: Path, content: str, words: str) -> None:
    where = write(folder, {"one.py": content})
    with pytest.raises(AppLoadError) as caught:
        apps.load("one:app", where)
    assert str(caught.value).startswith("application 'one:app' failed")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert f'File "{folder / "one.py"}", line' in caught.value.detail
    assert "importlib" not in caught.value.detail
    assert "fastcluster" not in caught.value.detail
    assert caught.value.__cause__ is not None


def test_the_traceback_keeps_what_led_to_the_error(folder: Path) -> None:
    content = "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('x') from e\n"
    with pytest.raises(AppLoadError) as caught:
        apps.load("one:app", write(folder, {"one.py": content}))
    assert "ZeroDivisionError" in caught.value.detail
    assert "The above exception was the direct cause" in caught.value.detail


def test_a_factory_that_fails(folder: Path) -> None:
    where = write(folder, {"one.py": "def make():\n    return {}['key']\n"})
    with pytest.raises(AppLoadError) as caught:
        apps.load("one:make", where, True)
    assert "failed while it made the application: KeyError: 'key'" in str(caught.value)
    assert "in make" in caught.value.detail


def test_an_application_that_exits(folder: Path) -> None:
    where = write(folder, {"one.py": "import sys\nsys.exit('no database')\n"})
    with pytest.raises(AppLoadError, match=r"called sys.exit\('no database'\) while it was impo"):
        apps.load("one:app", where)


def test_a_module_that_lacks_itself_is_an_error_of_its_own(folder: Path) -> None:
    # The missing name is the module's, but its own code raised it.
    where = write(folder, {"one.py": "raise ModuleNotFoundError('no', name='one')\n"})
    with pytest.raises(AppLoadError, match="failed while it was imported"):
        apps.load("one:app", where)


# ---- what can be seen without running anything


def test_a_check_runs_nothing(folder: Path) -> None:
    where = write(folder, {"one.py": "1 / 0\n"})
    apps.check("one:app", where)
    apps.check("json:anything", where)
    assert "one" not in sys.modules


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ome:app", "did you mean 'one:app'?"),
        ("one.py", "did you mean 'one:app'?"),
        ("one two", "is no name of an application"),
    ],
)
def test_a_check_finds_what_is_plain(folder: Path, spec: str, words: str) -> None:
    where = write(folder, {"one.py": "1 / 0\n"})
    with pytest.raises(AppLoadError) as caught:
        apps.check(spec, where)
    assert words in str(caught.value)


def test_a_check_finds_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(AppLoadError, match=r"there is no folder .*nowhere': mend --app-dir"):
        apps.check("one:app", str(tmp_path / "nowhere"))


# ---- discovery

BINDING = [
    "app = 1\n",
    "app: object = 1\n",
    "app, other = 1, 2\n",
    "other = app = 1\n",
    "def app(environ, start_response): ...\n",
    "async def app(scope, receive, send): ...\n",
    "class app: ...\n",
    "import app\n",
    "import app.more\n",
    "import other as app\n",
    "from other import app\n",
    "from other import site as app\n",
    "from other import *\n",
    "if True:\n    app = 1\n",
    "if False:\n    pass\nelse:\n    app = 1\n",
    "try:\n    app = 1\nexcept ImportError:\n    pass\n",
    "try:\n    pass\nexcept ImportError:\n    app = 1\n",
    "with open('x') as file:\n    app = 1\n",
    "this is no Python\n",
]

NOT_BINDING = [
    "",
    "application = 1\n",
    "app: object\n",
    "app.debug = True\n",
    "app['x'] = 1\n",
    "print(app)\n",
    "def make():\n    app = 1\n",
    "class Site:\n    app = 1\n",
    "from app import other\n",
    "import other.app\n",
]


@pytest.mark.parametrize("content", BINDING)
def test_a_name_is_seen_in_the_source(folder: Path, content: str) -> None:
    assert apps.discover(write(folder, {"app.py": content})) == "app:app"


@pytest.mark.parametrize("content", NOT_BINDING)
def test_a_name_that_is_not_bound_is_not_seen(folder: Path, content: str) -> None:
    assert apps.discover(write(folder, {"app.py": content})) is None


FOUND = [
    ({"app.py": "app = 1", "main.py": "app = 1"}, "app:app"),
    ({"app.py": "x = 1", "main.py": "app = 1"}, "main:app"),
    ({"main.py": "app = 1", "wsgi.py": "application = 1"}, "main:app"),
    ({"wsgi.py": "application = 1", "asgi.py": "application = 1"}, "wsgi:application"),
    ({"wsgi.py": "app = 1", "asgi.py": "application = 1"}, "asgi:application"),
    ({"app/__init__.py": "app = 1"}, "app:app"),
    ({"app/other.py": "app = 1"}, None),
    ({"README.md": ""}, None),
]


@pytest.mark.parametrize(("files", "spec"), FOUND)
def test_the_order_of_discovery(folder: Path, files: dict[str, str], spec: str | None) -> None:
    assert apps.discover(write(folder, files)) == spec


def test_discovery_runs_nothing(folder: Path) -> None:
    where = write(folder, {"app.py": "app = 1 / 0\n", "main.py": "app = 1"})
    assert apps.discover(where) == "app:app"
    assert "app" not in sys.modules


# ---- interfaces


def wsgi(environ: Any, start_response: Any) -> Any: ...


async def asgi(scope: Any, receive: Any, send: Any) -> Any: ...


def native(request: Any) -> Any: ...


def with_log(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    return wrapper


def with_blind_log(call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any) -> Any:
        return call(*args)

    return wrapper


class Starlette:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Middleware:
    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return self.app(scope, receive, send)


class Bottle:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...

    def handle(self, request: Any, response: Any) -> Any: ...


class WsgiClass:
    def __init__(self, environ: Any, start: Any) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        yield b""


class Asgi2:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


class Endpoint:
    """As Starlette's: an ASGI 3 application that is a class."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Any: ...


class Server:
    """As http.create_server makes them; not callable."""

    __fastcluster_handler__ = native


def flask_app() -> Any:
    import flask

    return flask.Flask("x")


def django_app() -> Any:
    from django.core.handlers.wsgi import WSGIHandler

    # Its constructor wants a configured project, its shape does not.
    return WSGIHandler.__new__(WSGIHandler)


def django_asgi_app() -> Any:
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler.__new__(ASGIHandler)


INTERFACES: list[tuple[str, Any, str]] = [
    ("function", wsgi, "wsgi"),
    ("other names", lambda e, s: None, "wsgi"),
    ("the names of others", lambda env, respond: None, "wsgi"),
    ("underscored names", lambda _environ, _start_response: None, "wsgi"),
    ("optional start_response", lambda environ, start_response=None: None, "wsgi"),
    ("and more that is optional", lambda environ, start_response, more=1: None, "wsgi"),
    ("instance", Bottle(), "wsgi"),
    ("class", WsgiClass, "wsgi"),
    ("flask", flask_app, "wsgi"),
    ("django", django_app, "wsgi"),
    ("partial", functools.partial(lambda app, environ, start_response: None, 1), "wsgi"),
    ("decorated", with_log(wsgi), "wsgi"),
    ("middleware of flask", lambda: with_log(flask_app().wsgi_app), "wsgi"),
    ("ASGI function", asgi, "asgi"),
    ("ASGI that is no coroutine function", lambda scope, receive, send: None, "asgi"),
    ("ASGI with other names", lambda a, b, c: None, "asgi"),
    ("ASGI instance", Starlette(), "asgi"),
    ("ASGI middleware", Middleware(Starlette()), "asgi"),
    ("ASGI method", Middleware(asgi).__call__, "asgi"),
    ("ASGI partial", functools.partial(asgi), "asgi"),
    ("ASGI decorated", with_log(asgi), "asgi"),
    ("ASGI class", Endpoint, "asgi"),
    ("django for ASGI", django_asgi_app, "asgi"),
    ("server", Server(), "native"),
    ("native function", native, "native"),
    ("in Node's manner", lambda request, response: None, "native"),
    ("in Node's manner, short", lambda req, res: None, "native"),
    ("with an option", lambda request, response=None: None, "native"),
    ("one of any name", lambda r: None, "native"),
    ("one that is optional", lambda r=None: None, "native"),
    ("native method", Bottle().handle, "native"),
    ("native partial", functools.partial(lambda db, request: None, 1), "native"),
    ("native decorated", with_log(native), "native"),
]


@pytest.mark.parametrize(("name", "app", "interface"), INTERFACES, ids=[i[0] for i in INTERFACES])
def test_the_interface_is_recognised(name: str, app: Any, interface: str) -> None:
    made = {"flask", "django", "django for ASGI", "middleware of flask"}
    assert apps.interface_of(app() if name in made else app) == interface


def test_an_async_wrapper_of_anything_is_asgi() -> None:
    async def wrapper(*args: Any) -> Any: ...

    assert apps.interface_of(wrapper) == "asgi"


async def asynchronous(request: Any) -> Any: ...


async def asynchronous_of_two(anything: Any, answer: Any) -> Any: ...


async def asynchronous_generator(request: Any) -> Any:
    yield b""


@pytest.mark.parametrize(
    "app",
    [
        asynchronous,
        asynchronous_of_two,
        asynchronous_generator,
        functools.partial(asynchronous_of_two, answer=1),
    ],
)
def test_an_async_function_of_one_or_two_is_native(app: Any) -> None:
    assert apps.interface_of(app) == "native"


UNRECOGNISED = [
    (Asgi2, "made for ASGI 2, which calls it twice: wrap it with asgiref"),
    (lambda scope: None, "made for ASGI 2"),
    (lambda: None, "takes no arguments: if it is a factory, add --factory"),
    (with_blind_log(wsgi), "cannot be seen how the application is called: say it with --interface"),
    (lambda a, b, c, d: None, "needs 4 arguments"),
    (object(), "cannot be seen how the application is called"),
]


@pytest.mark.parametrize(("app", "words"), UNRECOGNISED)
def test_what_cannot_be_recognised_is_said(app: Any, words: str) -> None:
    with pytest.raises(AppLoadError) as caught:
        apps.interface_of(app)
    assert words in str(caught.value)


# ---- what only its number of parameters speaks for


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("json:dumps", "json.dumps is of Python's own library and no application: name a"),
        ("shutil:copy", "shutil.copy is of Python's own library"),
        ("builtins:len", "builtins.len is of Python's own library"),
        ("os.path:basename", "posixpath.basename is of Python's own library"),
    ],
)
def test_a_function_of_pythons_own_is_no_application(spec: str, words: str) -> None:
    with pytest.raises(AppLoadError) as caught:
        apps.interface_of(apps.load(spec))
    assert caught.value.message.startswith(words)


def test_an_application_that_python_has_is_one() -> None:
    assert apps.interface_of(apps.load("wsgiref.simple_server:demo_app")) == "wsgi"


def test_a_module_that_is_only_called_like_pythons_is_somebodys_own(tmp_path: Path) -> None:
    program = (
        "from fastcluster import apps; import sys;"
        "print(apps.interface_of(apps.load('tabnanny:handler', sys.argv[1])))"
    )
    (tmp_path / "tabnanny.py").write_text("def handler(request): return 'x'\n")
    words = [sys.executable, "-c", program, str(tmp_path)]
    found = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert found.stdout == "native\n", found.stderr


def test_a_function_that_says_that_it_takes_something_else_is_none() -> None:
    def shout(text: str) -> str:
        return text.upper()

    def add(a: "int", b: int = 2) -> int:
        return a + b

    def handler(request: Any) -> str:
        return "x"

    def plain(anything):  # type: ignore[no-untyped-def]
        return "x"

    with pytest.raises(AppLoadError, match=r"shout takes a str, not a request: write it as"):
        apps.interface_of(shout)
    with pytest.raises(AppLoadError, match=r"add takes an int, not a request"):
        apps.interface_of(add)
    assert apps.interface_of(handler) == apps.interface_of(plain) == "native"
