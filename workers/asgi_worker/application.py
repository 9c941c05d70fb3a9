"""From the word on the command line, ``module:attr[.attr]``, to an ASGI 3 callable.

The only place that imports the user's code; what the object found there is, ``interfaces`` says.
What goes wrong here is the operator's or the application's fault, never ours, so each error says
what was looked for, where, and what is near it; a failing import shows the application's own frames
and none of ours or importlib's.

Considered and refused: awaiting asynchronous factories. There is no loop while the application is
imported (with ``--preload`` there is not even one to come in that process); what has to be awaited
belongs into lifespan startup.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable
from types import ModuleType
from typing import Any

from asgi_worker.contract import WorkerSettings
from asgi_worker.interfaces import NoApplication, accepts, asgi3, kind_of, signature_of, takes_of

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_IMPORTLIB = (os.path.dirname(importlib.__file__) + os.sep, "<frozen importlib")
_DOTTED = re.compile(r"\w+(\.\w+)*")
_WANTED = "module:attribute is wanted"
_DEFAULT_NAMES = ("app", "application")


class BootError(Exception):
    """The application cannot start.

    ``reason`` is one line; ``traceback`` the application's own frames, or "" where none of its code
    is to blame.
    """

    def __init__(self, reason: str, traceback: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.traceback = traceback


def load(settings: WorkerSettings) -> Application:
    """Import ``settings.app``, call it if it is a factory, and return an ASGI 3 callable.

    Puts ``settings.app_dir`` first on ``sys.path``. Raises :class:`BootError` and nothing else,
    whatever the application does (``SystemExit`` at import included).
    """
    try:
        return _load(settings)
    except BootError:
        raise
    except BaseException as error:  # noqa: BLE001 - even looking at an object may run its code
        raise _failed(f'cannot load "{settings.app}"', error) from None


def _load(settings: WorkerSettings) -> Application:
    word = settings.app
    module_name, colon, path = word.partition(":")
    if (
        not _DOTTED.fullmatch(module_name)
        or module_name.endswith(".py")
        or (colon and not _DOTTED.fullmatch(path))
    ):
        raise BootError(f'cannot load "{word}": {_malformed(word, module_name, path)}')
    app_dir = os.path.abspath(settings.app_dir)
    if sys.path[:1] != [app_dir]:
        sys.path.insert(0, app_dir)
    importlib.invalidate_caches()  # the template may have looked into the directory before
    module = _import(word, module_name, app_dir)
    if not colon:
        path = next((name for name in _DEFAULT_NAMES if hasattr(module, name)), "")
        if not path:
            raise BootError(
                f'cannot load "{word}": it names no attribute, and module "{module_name}" has '
                f'neither "app" nor "application"; {_what_is_there(module, "app")}'
            )
    found = _attribute(word, module, path)
    if settings.factory:
        found = _made(word, found)
    try:
        return asgi3(found, settings, made=settings.factory)
    except NoApplication as error:
        what = f'what factory "{word}" returned' if settings.factory else f'"{word}"'
        raise BootError(f"cannot use {what} {error}") from None


def application_traceback(error: BaseException) -> str:
    """The traceback of ``error`` and of what caused it, without our frames and importlib's."""
    report = traceback.TracebackException.from_exception(error)
    _cut(report, set())
    return "".join(report.format())


def _cut(report: traceback.TracebackException, seen: set[int]) -> None:
    if id(report) in seen:
        return
    seen.add(id(report))
    kept = [frame for frame in report.stack if not _is_foreign(frame.filename)]
    report.stack[:] = kept
    if not kept:
        # An empty list would still be announced as "Traceback (most recent call last):".
        report.stack = None  # type: ignore[assignment]
    for other in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if other is not None:
            _cut(other, seen)


def _is_foreign(filename: str) -> bool:
    return filename.startswith((_OURS, *_IMPORTLIB))


def _has_frames(error: BaseException) -> bool:
    """Whether code that is neither ours nor importlib's was running when ``error`` was raised."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(not _is_foreign(frame.f_code.co_filename) for frame, _ in frames)


def one_line(error: BaseException) -> str:
    """``TypeName: first line of the message``."""
    try:
        text = str(error).strip().partition("\n")[0]
    except Exception:  # noqa: BLE001 - a __str__ of the application
        text = "(its message cannot be read)"
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _malformed(word: str, module_name: str, path: str) -> str:
    stem, _, attribute = word.partition(":")
    if stem.endswith(".py") or "/" in stem:
        stem = stem.removesuffix(".py").removeprefix("./").strip("/").replace("/", ".")
        return f'a module name is wanted, not a file: try "{stem}:{attribute or "app"}"'
    if not module_name or not path:
        return f"the {'attribute' if module_name else 'module'} is missing: {_WANTED}"
    return f"{_WANTED}, without a call; see --factory" if "(" in path else _WANTED


def _import(word: str, name: str, app_dir: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        wanted = error.name is not None and f"{name}.".startswith(f"{error.name}.")
        if wanted and not _has_frames(error):
            reason = _missing_module(error.name or name, app_dir)
            raise BootError(f'cannot load "{word}": {reason}') from None
        raise _failed(f'cannot import "{name}"', error) from None
    except BaseException as error:  # noqa: BLE001 - whatever the application does
        raise _failed(f'cannot import "{name}"', error) from None


def _failed(what: str, error: BaseException) -> BootError:
    if isinstance(error, SystemExit):
        reason = f"it called exit ({one_line(error)})"
    else:
        reason = one_line(error)
    return BootError(f"{what}: {reason}", application_traceback(error))


def _missing_module(missing: str, app_dir: str) -> str:
    parent_name, _, last = missing.rpartition(".")
    if parent_name:
        parent = sys.modules.get(parent_name)
        places = list(getattr(parent, "__path__", ()))
        if not places:
            file = getattr(parent, "__file__", None) or "built in"
            return (
                f'"{parent_name}" is a module ({file}), not a package: it has no "{last}"; '
                f'is "{parent_name}:{last}" meant?'
            )
        where = f'package "{parent_name}" ({places[0]})'
    else:
        places, where = [app_dir], app_dir
        if not os.path.isdir(app_dir):
            return f'no module "{missing}": there is no directory {app_dir} (see --app-dir)'
    there = _modules(places)
    said = f'no module "{missing}" in {where}' + ("" if parent_name else " nor installed")
    if near := difflib.get_close_matches(last, there, 3, 0.6):
        return f"{said}; near it: {', '.join(near)}"
    for place in sorted(_folders(app_dir)) if not parent_name else ():
        if last in _modules([os.path.join(app_dir, place)]):
            return f"{said}, but there is one in {place}: try --app-dir {place}"
    if there:
        return f"{said}; there are: {_listed(there)}"
    return f"{said}, nor any other module there (see --app-dir)"


def _modules(places: list[str]) -> list[str]:
    """Names that can be imported from ``places``, packages without ``__init__.py`` included."""
    names = {found.name for found in pkgutil.iter_modules(places)}
    for place in places:
        for folder in _folders(place):
            try:
                if any(entry.endswith(".py") for entry in os.listdir(os.path.join(place, folder))):
                    names.add(folder)
            except OSError:
                continue
    return sorted(names)


def _folders(place: str) -> list[str]:
    try:
        with os.scandir(place) as entries:
            return [entry.name for entry in entries if entry.name.isidentifier() and entry.is_dir()]
    except OSError:
        return []


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _attribute(word: str, module: ModuleType, path: str) -> object:
    found: object = module
    owner = f'module "{module.__name__}"'
    for name in path.split("."):
        try:
            value = getattr(found, name)
        except AttributeError as error:
            if inspect.getattr_static(found, name, None) is not None:  # there, but it raised
                raise _failed(f'cannot read "{name}" of {owner}', error) from None
            raise BootError(
                f'cannot load "{word}": {owner} has no "{name}"; {_what_is_there(found, name)}'
            ) from None
        except BaseException as error:  # noqa: BLE001 - whatever the application does
            raise _failed(f'cannot read "{name}" of {owner}', error) from None
        found, owner = value, f'"{name}" ({kind_of(value)})'
    return found


def _what_is_there(owner: object, name: str) -> str:
    """What the operator may have meant: names near ``name``, and what looks like an application."""
    members = {
        key: value
        for key, value in getattr(owner, "__dict__", {}).items()
        if not key.startswith("_")
    }
    said = []
    if near := difflib.get_close_matches(name, members, 3, 0.6):
        said.append(f"near it: {', '.join(near)}")
    home = getattr(owner, "__name__", None)
    if apps := [key for key, value in members.items() if _seems_application(value, home)]:
        said.append(f"what looks like an ASGI application there: {_listed(apps)}")
    return "; ".join(said) or "nothing there looks like an ASGI application"


def _seems_application(value: object, home: str | None) -> bool:
    # Imported functions and classes are tools of the module, not its application.
    if inspect.isclass(value) or (
        inspect.isroutine(value) and getattr(value, "__module__", home) != home
    ):
        return False
    try:
        return takes_of(value) == "asgi3"
    except Exception:  # noqa: BLE001 - a proxy object of which there is nothing yet
        return False


def _made(word: str, factory: object) -> object:
    if not callable(factory):
        raise BootError(f'cannot call "{word}" as a factory: it is {kind_of(factory)}')
    if inspect.iscoroutinefunction(factory) and takes_of(factory) == "nothing":
        raise BootError(
            f'cannot call "{word}" as a factory: it is asynchronous; make it a plain function '
            "and await what it needs in lifespan startup"
        )
    signature = signature_of(factory)
    if signature is not None and not accepts(signature, 0):
        if takes_of(factory) in ("asgi3", "asgi2"):
            hint = f"it takes {signature}, so it is the application itself: leave --factory out"
        else:
            hint = f"it needs arguments: {signature}"
        raise BootError(f'cannot call "{word}" as a factory: {hint}')
    try:
        made: object = factory()
    except BaseException as error:  # noqa: BLE001 - whatever the application does
        raise _failed(f'cannot make the application: factory "{word}" failed', error) from None
    if inspect.iscoroutine(made):
        made.close()
        raise BootError(
            f'cannot use what factory "{word}" returned: a coroutine; the factory has to be a '
            "plain function that returns the application"
        )
    return made
