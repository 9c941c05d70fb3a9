"""What an object is – ASGI 3, ASGI 2, WSGI or nothing of the kind – and how it becomes ASGI 3.

The only place that judges an application. An object is judged by the arguments it takes, not by
whether it is a coroutine function (as asgiref does): a plain function that returns a coroutine is
an application as good as any, and a factory named by mistake is told apart before the first request
fails. Where their number leaves it open, because a third may be left out, names decide. Where the
arguments cannot tell (``*args``, compiled code), it is taken for ASGI 3, and ``settings.interface``
is for who knows better.

Considered and refused: calling the object to find out. Half of what can be called that way does
something.
"""

from __future__ import annotations

import functools
import inspect
import logging
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from asgi_worker import loggers, wsgi

if TYPE_CHECKING:
    from asgi_worker.application import Application, Receive, Scope, Send
    from asgi_worker.contract import WorkerSettings

Takes = Literal["asgi3", "asgi2", "wsgi", "nothing", "other", "no call"]

_OF_ASGI: Final = {"scope", "receive", "send"}
_OF_WSGI: Final = {"environ", "start_response"}
_OF_LAMBDA: Final = ("event", "context")
_WANTED: Final = {
    "asgi3": ("an ASGI application", "(scope, receive, send)"),
    "asgi2": ("an ASGI 2 application", "(scope)"),
    "wsgi": ("a WSGI application", "(environ, start_response)"),
}

log = logging.getLogger("asgi_worker")


class NoApplication(Exception):
    """The object cannot be served. The message goes on after "cannot use … ": as what, and why."""


def asgi3(found: object, settings: WorkerSettings, made: bool) -> Application:
    """``found`` as an ASGI 3 callable; itself if it is one.

    ``made``: it is what a factory returned. Raises :class:`NoApplication`.
    """
    is_told = settings.interface != "auto"
    kind = _told(found, settings.interface) if is_told else _guessed(found, made)
    if kind == "asgi3":
        return cast("Application", found)
    if kind == "asgi2":
        return _single_callable(found)
    if settings.loop == "trio":
        raise NoApplication(
            "as a WSGI application on trio: it runs in threads; leave --loop trio out"
        )
    try:
        application = wsgi.asgi3(found, threads=settings.wsgi_threads)
    except ImportError as error:
        why = "" if is_told else f", as the arguments {signature_of(found)} suggest"
        raise NoApplication(
            f"as a WSGI application{why}: {error}; pip install 'asgi-supervise[wsgi]'"
        ) from None
    if not is_told and loggers.speaks_for_all():
        log.info(
            "%s takes two arguments and is served as a WSGI application; "
            "--interface wsgi says so explicitly",
            settings.app,
        )
    return application


def _told(found: object, interface: str) -> Takes:
    """``interface``, unless ``found`` clearly is something else."""
    wanted, arguments = _WANTED[interface]
    because = f"as {wanted} (--interface {interface}): it is {kind_of(found)}"
    if not callable(found):
        raise NoApplication(because)
    signature = signature_of(found)
    number = arguments.count(",") + 1
    if not (signature is None or accepts(signature, number) or _is_wrapped_in(found, number)):
        raise NoApplication(f"{because} that takes {signature}, not {arguments}")
    if interface != "asgi3" and _is_asynchronous(found):
        raise NoApplication(f"{because} that is asynchronous, which only ASGI 3 has")
    return cast("Takes", interface)


def _guessed(found: object, made: bool) -> Takes:
    """What ``found`` is by its arguments, if it is an application."""
    takes = takes_of(found)
    if takes in _WANTED:
        return takes
    reason = f"it is {kind_of(found)}"
    if takes == "nothing" and inspect.isclass(found):
        reason += ", not an instance of it: name an instance, or add --factory"
    elif takes == "nothing" and _is_asynchronous(found):
        reason += " that is asynchronous and takes no arguments: a factory has to be a plain one"
    elif takes == "nothing" and not made:
        reason += " that can be called without arguments, a factory it seems: add --factory"
    elif takes != "no call":
        signature = signature_of(found)
        reason += f" that takes {signature}, not (scope, receive, send)"
        if signature is not None and tuple(signature.parameters) == _OF_LAMBDA:
            reason += ", a handler of AWS Lambda it seems: name the application that it wraps"
        elif _is_wrapped_in(found, 2):
            reason += "; it is decorated: say with --interface what that makes of it"
    elif isinstance(found, ModuleType):
        reason += ': name the application in it, "module:attribute"'
    elif inspect.iscoroutine(found):
        found.close()
        reason += ", what a call returned: name what was called"
    raise NoApplication(f"as an ASGI application: {reason}")


def _single_callable(double: Any) -> Application:
    """An ASGI 2 application, ``app(scope)(receive, send)``, as an ASGI 3 one."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope["asgi"] = {**scope["asgi"], "version": "2.0"}
        await double(scope)(receive, send)

    return application


def takes_of(found: object) -> Takes:
    """What ``found`` seems to be, judged by the arguments it takes."""
    if not callable(found):
        return "no call"
    # asgiref's own marks, which decorators set where a signature cannot tell.
    if getattr(found, "_asgi_single_callable", False) is True:
        return "asgi3"
    if getattr(found, "_asgi_double_callable", False) is True:
        return "asgi2"
    signature = signature_of(found)
    if signature is None:  # compiled code without a signature: the first request will tell
        return "asgi3"
    if isinstance(found, type):
        return _class_takes(found, signature)
    return _call_takes(found, signature)


def _class_takes(found: type, signature: inspect.Signature) -> Takes:
    if accepts(signature, 3) and hasattr(found, "__await__"):
        return "asgi3"  # as Starlette's endpoints: what is made of one request is awaited
    if accepts(signature, 0):
        return "nothing"
    if accepts(signature, 2) and hasattr(found, "__iter__"):
        return "wsgi"  # PEP 3333: what is made of one request is the body
    called = any("__call__" in vars(parent) for parent in found.__mro__)
    return "asgi2" if called and accepts(signature, 1) else "other"


def _call_takes(found: object, signature: inspect.Signature) -> Takes:
    if accepts(signature, 0) and any(
        parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        for parameter in signature.parameters.values()
    ):
        return "nothing"  # even if it takes three: these are the options of a factory
    names = signature.parameters
    if accepts(signature, 3):
        is_named = _OF_WSGI & {*tuple(names)[:2]} and not _OF_ASGI & names.keys()
        is_wsgi = is_named and accepts(signature, 2) and not _is_asynchronous(found)
        return "wsgi" if is_wsgi else "asgi3"
    if accepts(signature, 0):
        return "nothing"
    if accepts(signature, 2):
        is_asgi = _is_asynchronous(found) or _OF_ASGI & names.keys()
        return "other" if is_asgi or tuple(names) == _OF_LAMBDA else "wsgi"
    # One argument is ASGI 2 if it says so; else a factory that wants something we do not have.
    if accepts(signature, 1) and "scope" in next(iter(names)):
        return "other" if _is_asynchronous(found) else "asgi2"
    return "other"


def _is_asynchronous(found: Any) -> bool:
    while isinstance(found, functools.partial):
        found = found.func
    if isinstance(found, type):
        return False
    return inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(
        getattr(found, "__call__", None)  # noqa: B004 – the method itself is asked for
    )


def _is_wrapped_in(found: Any, positional: int) -> bool:
    """Whether a decorator takes so many, whatever what it decorates takes (as Werkzeug's do)."""
    if not hasattr(found, "__wrapped__"):
        return False
    try:
        return accepts(inspect.signature(found, follow_wrapped=False), positional)
    except ValueError:  # compiled, as functools.cache: nobody knows
        return True


def signature_of(found: Any) -> inspect.Signature | None:
    """The arguments ``found`` takes; ``None`` where Python does not know them."""
    try:
        return inspect.signature(found)
    except (TypeError, ValueError):
        return None


def accepts(signature: inspect.Signature, positional: int) -> bool:
    """Whether a call with so many positional arguments and nothing else is possible."""
    try:
        signature.bind(*[None] * positional)
    except TypeError:
        return False
    return True


def kind_of(found: object) -> str:
    """What ``found`` is, in words for the operator."""
    if isinstance(found, ModuleType):
        return f'the module "{found.__name__}"'
    if inspect.isclass(found):
        return f"the class {found.__name__}"
    if inspect.isroutine(found):
        return "a function"
    return "None" if found is None else f"an instance of {type(found).__name__}"
