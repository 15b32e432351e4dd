"""From "module:name" to an object, and whether it is a native, a WSGI or an ASGI application.

The law: whatever is wrong with the words of a user ends as one sentence that
names the mend; what goes wrong inside the application stays its own error, with
the part of its traceback that is the application's.  This file calls no
application, only factories, and knows no server.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fastcluster.errors import AppLoadError

# Names that are tried where only a module is given.
NAMES = ("app", "application")
FACTORY_NAMES = ("create_app", "make_app", "app", "application")

# What is served where nobody says what, in this order.
DISCOVERED = ("app:app", "main:app", "wsgi:application", "asgi:application")

# Objects that http.create_server makes have this attribute.
NATIVE_MARK = "__fastcluster_handler__"

INTERFACES = ("native", "wsgi", "asgi")


# ---- loading


def load(spec: str, app_dir: str = ".", factory: bool = False) -> Any:
    """Import and return the application that ``spec`` names; puts ``app_dir`` on sys.path.

    spec: "module:name", "module:name.attribute", or "module" alone, which has
    one of NAMES.  factory: the object is called without arguments and returns
    the application.  Raises AppLoadError; where the application itself failed,
    its ``detail`` is the application's traceback and its cause the exception.
    """
    module_name, attribute = _split(spec, app_dir)
    _put_on_path(app_dir)
    module = _import(module_name, spec, app_dir)
    if attribute:
        app = _attribute(module, attribute, spec)
    else:
        app = _usual_name(module, FACTORY_NAMES if factory else NAMES)
    if factory:
        app = _make(app, spec)
    if not callable(app) and not hasattr(app, NATIVE_MARK):
        what = "returned" if factory else "is"
        raise AppLoadError(
            f"{spec!r} {what} {_an(type(app).__name__)}, not an application: name one that is"
        )
    return app


def check(spec: str, app_dir: str = ".") -> None:
    """Raise AppLoadError if it can be seen without running any code that load() must fail."""
    module_name, _ = _split(spec, app_dir)
    _must_be_folder(app_dir)
    _put_on_path(app_dir)
    top = module_name.partition(".")[0]
    try:
        is_there = importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        # A finder of somebody else, or a module without a spec: let load() say.
        return
    if not is_there:
        raise AppLoadError(_no_module(top, spec, app_dir))


def _must_be_folder(app_dir: str) -> None:
    if not os.path.isdir(app_dir):
        raise AppLoadError(f"there is no folder {app_dir!r}: mend --app-dir")


def _split(spec: str, app_dir: str) -> tuple[str, str]:
    """Return module and attribute, "" for none; AppLoadError for what is no such thing."""
    module_name, colon, attribute = spec.partition(":")
    if attribute.endswith(")"):
        bare = attribute.partition("(")[0]
        raise AppLoadError(
            f"{spec!r} calls a function: did you mean --factory {module_name}:{bare}?"
        )
    path = Path(module_name)
    if module_name.endswith(".py") and not (Path(app_dir) / path.stem / "py.py").exists():
        raise AppLoadError(f"{spec!r} is a file, not a module: did you mean {_as_spec(spec)!r}?")
    if "/" in module_name or os.sep in module_name:
        raise AppLoadError(f"{spec!r} is a path, not a module: did you mean {_as_spec(spec)!r}?")
    names = [*module_name.split("."), *(attribute.split(".") if colon else ())]
    if not all(name.isidentifier() for name in names):
        raise AppLoadError(f"{spec!r} is no name of an application: write it as module:name")
    return module_name, attribute


def _as_spec(spec: str) -> str:
    """Turn "src/app.py:site" into "src.app:site"."""
    path, _, attribute = spec.partition(":")
    parts = Path(path.removesuffix(".py")).parts
    module_name = ".".join(part for part in parts if part not in ("/", ".", ".."))
    return f"{module_name}:{attribute or NAMES[0]}"


_on_path: str | None = None


def forget_folder() -> None:
    """Take the folder that was put on sys.path last off again.

    Of a release that is not the current one any more nothing is to be found.
    """
    if _on_path in sys.path:
        sys.path.remove(_on_path)


def _put_on_path(app_dir: str) -> None:
    folder = os.path.abspath(app_dir)
    global _on_path
    _on_path = folder
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()


def _import(module_name: str, spec: str, app_dir: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        ours = error.name is not None and (module_name + ".").startswith(error.name + ".")
        if ours and not _frames_of_app(error):
            assert error.name is not None
            raise AppLoadError(_no_module(error.name, spec, app_dir)) from error
        raise _failed(spec, "while it was imported", error) from error
    except (Exception, SystemExit) as error:
        raise _failed(spec, "while it was imported", error) from error


def _make(maker: Any, spec: str) -> Any:
    if not callable(maker):
        raise AppLoadError(
            f"{spec!r} is {_an(type(maker).__name__)} and makes no application: "
            "leave --factory out, or name a function"
        )
    try:
        signature = inspect.signature(maker)
    except (TypeError, ValueError):
        signature = None
    if signature is not None and not _fits(signature, 0):
        raise AppLoadError(
            f"{spec!r} cannot be called without arguments, as a factory is: "
            "leave --factory out, or name one that can"
        )
    try:
        return maker()
    except (Exception, SystemExit) as error:
        raise _failed(spec, "while it made the application", error) from error


def _fits(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _attribute(module: ModuleType, attribute: str, spec: str) -> Any:
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise AppLoadError(_no_attribute(found, name, spec, module))
        found = getattr(found, name)
    return found


def _usual_name(module: ModuleType, names: Sequence[str]) -> Any:
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    raise AppLoadError(
        f"module {module.__name__!r} has no {' and no '.join(names)}: {_suggestions(module)}"
    )


# ---- words for what is missing


def _no_module(missing: str, spec: str, app_dir: str) -> str:
    _, _, attribute = spec.partition(":")
    parent, _, last = missing.rpartition(".")
    folder = Path(app_dir, *parent.split(".")) if parent else Path(app_dir)
    near = difflib.get_close_matches(last, _modules_in(folder), n=1)
    where = f"in package {parent!r}" if parent else f"in {str(folder.absolute())!r}"
    text = f"there is no module {missing!r} {where}"
    if not near:
        return f"{text}: name another one, or the folder that has it with --app-dir"
    rest = spec.partition(":")[0].removeprefix(missing)
    name = f"{parent}.{near[0]}" if parent else near[0]
    return f"{text}: did you mean {name + rest + ':' + (attribute or NAMES[0])!r}?"


def _modules_in(folder: Path) -> list[str]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    files = [path.stem for path in entries if path.suffix == ".py" and path.stem != "__init__"]
    return files + [path.name for path in entries if (path / "__init__.py").is_file()]


def _no_attribute(owner: Any, name: str, spec: str, module: ModuleType) -> str:
    names = [other for other in dir(owner) if not other.startswith("__")]
    near = difflib.get_close_matches(name, names, n=1)
    before, _, _ = spec.rpartition(name)
    what = "module" if owner is module else "object"
    text = f"{what} {before.rstrip(':.')!r} has no {name!r}"
    if near:
        return f"{text}: did you mean {before + near[0]!r}?"
    return f"{text}: {_suggestions(module)}"


def _suggestions(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if _may_be_app(name, value, module)]
    makers = [name for name in names if name.startswith(("create_", "make_", "get_", "build_"))]
    if makers:
        return f"did you mean --factory {module.__name__}:{makers[0]}?"
    if names:
        return "it has " + ", ".join(f"{module.__name__}:{name}" for name in names[:5])
    return "name the application as module:name"


def _may_be_app(name: str, value: Any, module: ModuleType) -> bool:
    if name.startswith("_"):
        return False
    try:
        if inspect.isroutine(value) or inspect.isclass(value):
            return bool(value.__module__ == module.__name__)
        strange = ("typing", "builtins", "werkzeug.local")
        return callable(value) and type(value).__module__ not in strange
    except Exception:
        # A proxy, which asks an object that is not there yet.
        return False


def _an(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"


# ---- the application's own errors


def _failed(spec: str, when: str, error: BaseException) -> AppLoadError:
    """Say that the application raised an error; the detail is its part of the traceback."""
    if isinstance(error, SystemExit):
        return AppLoadError(f"application {spec!r} called sys.exit({error.code!r}) {when}")
    what = traceback.format_exception_only(error)[-1].strip()
    return AppLoadError(f"application {spec!r} failed {when}: {what}", _traceback_of(error))


def _frames_of_app(error: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if _is_of_app(frame)]


def _is_of_app(frame: traceback.FrameSummary) -> bool:
    machinery = ("<frozen importlib", importlib.__file__, __file__)
    return not frame.filename.startswith(machinery)


def _traceback_of(error: BaseException) -> str:
    """Return the traceback without the frames of this file and of the import machinery."""
    whole = traceback.TracebackException.from_exception(error)
    parts = [whole]
    while parts:
        part = parts.pop()
        part.stack = traceback.StackSummary.from_list(
            [frame for frame in part.stack if _is_of_app(frame)]
        )
        parts += [other for other in (part.__cause__, part.__context__) if other is not None]
    return "".join(whole.format()).rstrip("\n")


# ---- finding an application


def discover(app_dir: str = ".") -> str | None:
    """Return the first of DISCOVERED that is in a folder, or None.

    The files are read and not run: the primary asks this, and the primary
    imports nobody's code, so that it stays whole and a reload finds new code.  A
    name counts that the file binds at its top level, in whatever way.  A file
    that is no Python is taken for the application, for then its author wants to
    see the error.  Raises AppLoadError if there is no such folder.
    """
    _must_be_folder(app_dir)
    for spec in DISCOVERED:
        module_name, _, attribute = spec.partition(":")
        for path in (Path(app_dir, f"{module_name}.py"), Path(app_dir, module_name, "__init__.py")):
            if path.is_file() and _binds(path, attribute):
                return spec
    return None


def _binds(path: Path, name: str) -> bool:
    try:
        with warnings.catch_warnings():
            # The author hears of them when the file is run.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return True
    return any(_statement_binds(statement, name) for statement in _top_level(tree.body))


def _top_level(body: Iterable[ast.AST]) -> Iterable[ast.AST]:
    """Yield the statements of a module, those inside of if, try and with too."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.TryStar, ast.With, ast.ExceptHandler)):
            yield from _top_level(ast.iter_child_nodes(node))


def _statement_binds(node: ast.AST, name: str) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node.name == name
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return any(
            (alias.asname or alias.name.partition(".")[0]) in (name, "*") for alias in node.names
        )
    if isinstance(node, ast.AnnAssign):
        return node.value is not None and _target_binds(node.target, name)
    if isinstance(node, ast.Assign):
        return any(_target_binds(target, name) for target in node.targets)
    return False


def _target_binds(target: ast.expr, name: str) -> bool:
    return any(
        isinstance(part, ast.Name) and part.id == name and isinstance(part.ctx, ast.Store)
        for part in ast.walk(target)
    )


# ---- which kind of application


class _Shape(NamedTuple):
    """How an object can be called: names of its positional parameters, how many it needs."""

    names: list[str]
    needed: int
    takes_any: bool
    is_async: bool


def interface_of(app: Any) -> str:
    """Return "native", "wsgi" or "asgi": how an application wants to be called.

    An object of http.create_server is native.  Otherwise the parameters decide:
    those of ASGI 3 and of PEP 3333 by their names, a first one called request
    or req is native's; then three are ASGI's, one is native's, and any two are
    WSGI's, since PEP 3333 leaves their names open, or native's if it is asynchronous.
    Raises AppLoadError for an ASGI 2 application, and where it cannot be told.
    """
    if hasattr(app, NATIVE_MARK):
        return "native"
    shape = _shape_of(app)
    first, second, third = ([name.strip("_").lower() for name in shape.names] + [""] * 3)[:3]
    if (first, second, third) == ("scope", "receive", "send"):
        return "asgi"
    if second == "start_response" or (second and first in ("environ", "env")):
        return "wsgi"
    if _is_asgi_2(app, first, shape):
        raise AppLoadError(
            "the application is made for ASGI 2, which calls it twice: "
            "wrap it with asgiref.compatibility.guarantee_single_callable"
        )
    if not shape.names and shape.takes_any and shape.is_async:
        return "asgi"
    if not shape.names:
        raise AppLoadError(_without_parameters(shape))
    interface = _by_number(first, shape)
    if wrong := _is_no_application(app, interface):
        raise AppLoadError(wrong)
    return interface


def _by_number(first: str, shape: _Shape) -> str:
    if first in ("request", "req") or shape.needed == 1:
        return "native"
    if shape.needed == 3:
        return "asgi"
    if shape.needed == 2 and shape.is_async:
        return "native"  # PEP 3333 knows no coroutines
    if shape.needed == 2 or (shape.needed == 0 and len(shape.names) == 2):
        return "wsgi"
    if shape.needed == 0:
        return "native" if len(shape.names) == 1 else "asgi"
    raise AppLoadError(
        f"the application needs {shape.needed} arguments, and none is called with so many: "
        "name another one"
    )


def _is_no_application(app: Any, interface: str) -> str:
    """Say what a callable is that only its number of parameters speaks for, "" if it may serve."""
    name = getattr(app, "__qualname__", "")
    if (inspect.isroutine(app) or inspect.isclass(app)) and _is_of_library(app):
        return (
            f"{app.__module__}.{name} is of Python's own library and no application: name a "
            "function of yours that takes a request"
        )
    annotation = next(iter(inspect.signature(app).parameters.values())).annotation
    plain = getattr(annotation, "__name__", annotation)
    if interface == "native" and plain in ("str", "bytes", "int", "float", "bool", "list", "tuple"):
        return (
            f"{name or 'the application'} takes {_an(plain)}, not a request: write it as "
            "handler(request), or name another one"
        )
    return ""


def _is_of_library(app: Any) -> bool:
    """Whether Python itself came with it; somebody's own code.py is not Python's `code`."""
    module = getattr(app, "__module__", None)
    if not isinstance(module, str):
        return inspect.isbuiltin(app)  # or made by exec()
    top = module.partition(".")[0]
    if top not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is None or Path(file).is_relative_to(sysconfig.get_paths()["stdlib"])


def _is_asgi_2(app: Any, first: str, shape: _Shape) -> bool:
    if first == "scope" and shape.needed == 1:
        return True
    if not inspect.isclass(app) or len(shape.names) != 1:
        return False
    return inspect.iscoroutinefunction(app.__call__)


def _without_parameters(shape: _Shape) -> str:
    if shape.takes_any:
        return (
            "it cannot be seen how the application is called: "
            f"say it with --interface {'|'.join(INTERFACES)}"
        )
    return "the application takes no arguments: if it is a factory, add --factory"


def _shape_of(app: Any) -> _Shape:
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return _Shape([], 0, True, False)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return _Shape(
        names=[p.name for p in positional],
        needed=sum(p.default is p.empty for p in positional),
        takes_any=any(p.kind is p.VAR_POSITIONAL for p in parameters),
        is_async=_is_async(app),
    )


def _is_async(app: Any) -> bool:
    if inspect.isclass(app):
        return False
    while isinstance(app, functools.partial):
        app = app.func
    call = type(app).__call__
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        for function in (app, call)
    )
