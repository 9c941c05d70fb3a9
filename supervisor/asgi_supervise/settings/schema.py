"""Every setting, declared once: the fields of :class:`Settings` are the table.

A field carries its type and default as Python does, and everything else in one :class:`Setting`
beside them: help, kind of value, panel, short flag, further names. The command line, the
environment, the TOML reader, ``--help``, the reference page and the sample file come from it.
Where uvicorn has a setting of the same meaning its name is the word or a further flag, so that
people can switch by changing one word. So is the name that gunicorn, hypercorn, daphne or granian
have for it, unless two of them mean different things by it (``-p``, ``-t``, ``-u``).

Considered and refused: nested structures (a worker's settings would need two names for each) and a
separate table (two places to forget).
"""

from __future__ import annotations

from typing import Annotated, Literal

from asgi_supervise.settings.addresses import BINDS, DEFAULT_HOST, DEFAULT_PORT
from asgi_supervise.settings.cpus import usable_cpus
from asgi_supervise.settings.entry import (
    APP,
    HEALTH,
    LISTEN,
    LOG,
    PANELS,
    PROCESSES,
    TIMES,
    Setting,
    declared,
)
from asgi_supervise.settings.shorthand import Shorthand
from asgi_supervise.settings.traffic import TrafficStruct
from asgi_supervise.settings.values import (
    APPLICATION,
    FLAG,
    GROUP,
    HEALTH_PATH,
    LOG_FILE,
    MODE,
    NAME,
    PATH,
    ROOT_PATH,
    USER,
    choice,
    duration,
    integer,
    share,
    workers,
)
from asgi_worker.contract import WorkerSettings


class Settings(TrafficStruct, frozen=True, kw_only=True):
    """All that the master knows; made once, never changed.

    Durations are seconds (``_s``), sizes bytes (``_bytes``); ``None`` means off or not asked for.
    """

    app: Annotated[
        str,
        Setting(
            APP,
            APPLICATION,
            "The application: where to import it and what it is called there.",
            example='"myproject.main:app"',
        ),
    ]
    app_dir: Annotated[
        str, Setting(APP, PATH, "Directory put first on the module search path.")
    ] = "."
    factory: Annotated[
        bool,
        Setting(APP, FLAG, "APP is a function without arguments that returns the application."),
    ] = False
    interface: Annotated[
        Literal["auto", "asgi3", "asgi2", "wsgi"],
        Setting(
            APP,
            choice("auto", "asgi3", "asgi2", "wsgi"),
            "What the application is; auto: told by the arguments it takes.",
        ),
    ] = "auto"
    lifespan: Annotated[
        Literal["auto", "on", "off"],
        Setting(
            APP,
            choice("auto", "on", "off"),
            "Run the application's startup and shutdown; auto: only if it knows of them.",
            flags=("--asgi-lifespan",),
        ),
    ] = "auto"
    loop: Annotated[
        Literal["auto", "uvloop", "asyncio", "trio"],
        Setting(
            APP,
            choice("auto", "uvloop", "asyncio", "trio"),
            "Event loop; auto: uvloop where installed; trio: the application runs on trio.",
            flags=("--asgi-loop",),
        ),
    ] = "auto"
    root_path: Annotated[
        str,
        Setting(
            APP,
            ROOT_PATH,
            "Path prefix under which a proxy publishes the application.",
            default="none",
            example='"/api"',
        ),
    ] = ""

    bind: Annotated[
        tuple[str, ...],
        Setting(
            LISTEN,
            BINDS,
            "Listen on host:port, [v6]:port, unix:path or fd://N. May be given more than once.",
            short="-b",
            restart=True,
        ),
    ] = (f"{DEFAULT_HOST}:{DEFAULT_PORT}",)
    backlog: Annotated[
        int,
        Setting(
            LISTEN,
            integer(1, 2**16 - 1),
            "Connections that may wait for each worker.",
            restart=True,
        ),
    ] = 2048
    uds_mode: Annotated[
        int,
        Setting(
            LISTEN,
            MODE,
            "Mode of unix sockets made by us; 660 shuts others out.",
            flags=("--uds-permissions",),
            restart=True,
        ),
    ] = 0o666

    workers: Annotated[
        int,
        Setting(
            PROCESSES,
            workers(usable_cpus),
            "Worker processes; auto: one for each CPU that affinity and container limits leave us.",
            short="-w",
            variables=("WEB_CONCURRENCY",),
            restart=True,
        ),
    ] = 1
    preload: Annotated[
        bool,
        Setting(
            PROCESSES,
            FLAG,
            "Import the application once, before workers are forked: quicker start, shared memory.",
        ),
    ] = False
    balance: Annotated[
        Literal["exact", "kernel", "off"],
        Setting(
            PROCESSES,
            choice("exact", "kernel", "off"),
            "Who gets a connection. exact: workers hand connections on, so that each has its share "
            "and none waits for a busy one; kernel: the kernel spreads new ones at random over "
            "the workers that serve, and workers hand on only what they leave behind when they "
            "stop or hang; off: nothing is handed on, and who comes to a hung worker waits.",
        ),
    ] = "exact"
    canary_weight: Annotated[
        float | None,
        Setting(
            PROCESSES,
            share(),
            "On reload, the part of new connections (0.1 is a tenth) for the first worker of the "
            "new code, as long as bake-time lasts.",
            default="as much as for any other worker",
            example="0.1",
        ),
    ] = None
    max_restarts: Annotated[
        int,
        Setting(
            PROCESSES,
            integer(1),
            "Give up when no worker serves and this many for each worker died within the window.",
        ),
    ] = 5
    restart_window_s: Annotated[
        float, Setting(PROCESSES, duration(), "The window in which deaths are counted.")
    ] = 60.0
    user: Annotated[
        str | None,
        Setting(PROCESSES, USER, "Run workers as this user (needs root).", example='"www-data"'),
    ] = None
    group: Annotated[
        str | None,
        Setting(
            PROCESSES,
            GROUP,
            "Run workers as this group (needs root).",
            default="the user's own",
            example='"www-data"',
        ),
    ] = None
    umask: Annotated[
        int | None,
        Setting(
            PROCESSES,
            MODE,
            "File mode mask of the workers.",
            default="as inherited",
            example='"027"',
        ),
    ] = None
    chdir: Annotated[
        str | None,
        Setting(
            PROCESSES,
            PATH,
            "Change to this directory first; other paths are relative to it.",
            example='"/srv"',
        ),
    ] = None
    pid: Annotated[
        str | None,
        Setting(
            PROCESSES,
            PATH,
            "Write the master's process id to this file.",
            flags=("--pid-file",),
            example='"/run/asgi-supervise.pid"',
            restart=True,
        ),
    ] = None
    name: Annotated[
        str,
        Setting(
            PROCESSES,
            NAME,
            "Name shown by ps and in the log.",
            short="-n",
            flags=("--process-name",),
        ),
    ] = "asgi-supervise"

    startup_timeout_s: Annotated[
        float, Setting(TIMES, duration(), "From the fork of a worker until it must be ready.")
    ] = 60.0
    graceful_timeout_s: Annotated[
        float,
        Setting(
            TIMES,
            duration(),
            "All the time a worker has to stop before it is killed.",
            flags=("--timeout-graceful-shutdown",),
        ),
    ] = 30.0
    shutdown_delay_s: Annotated[
        float,
        Setting(
            TIMES,
            duration(zero=True),
            "When told to stop, serve on for this time with health-path answered 503, so that load "
            "balancers turn away first.",
        ),
    ] = 0.0
    shutdown_reserve_s: Annotated[
        float,
        Setting(
            TIMES,
            duration(zero=True),
            "The part of graceful-timeout kept for the application's lifespan shutdown.",
            default="5 s, or half of graceful-timeout where that is less",
            example='"5 s"',
        ),
    ] = 5.0
    bake_time_s: Annotated[
        float,
        Setting(
            TIMES,
            duration(zero=True),
            "On reload, how long the first worker of the new code must live before the others are "
            "replaced.",
        ),
    ] = 5.0
    keep_alive_timeout_s: Annotated[
        float,
        Setting(
            TIMES,
            duration(),
            "An idle connection is closed after this time.",
            flags=("--timeout-keep-alive", "--keep-alive"),
        ),
    ] = 5.0
    head_timeout_s: Annotated[
        float, Setting(TIMES, duration(), "A request's head must arrive within this time.")
    ] = 10.0
    body_timeout_s: Annotated[
        float | None,
        Setting(TIMES, duration(off=True), "Longest pause while a request's body arrives."),
    ] = 60.0

    stall_warn_s: Annotated[
        float | None,
        Setting(
            HEALTH,
            duration(off=True),
            "When a worker's event loop is late by this time, log where it hangs.",
            default="0.25 s, or half of worker-timeout where that is less",
            example='"250ms"',
        ),
    ] = 0.25
    worker_timeout_s: Annotated[
        float | None,
        Setting(
            HEALTH,
            duration(off=True),
            "When a worker's event loop is late by this time, kill and replace the worker.",
            flags=("--timeout", "--timeout-worker-healthcheck"),
        ),
    ] = 30.0
    health_path: Annotated[
        str | None,
        Setting(
            HEALTH,
            HEALTH_PATH,
            "Ask the application for this path, inside each worker, before it serves and again and "
            "again; 2xx and 3xx are good.",
            example='"/healthz"',
        ),
    ] = None
    health_interval_s: Annotated[
        float, Setting(HEALTH, duration(), "Pause between two requests for health-path.")
    ] = 5.0
    health_timeout_s: Annotated[
        float, Setting(HEALTH, duration(), "health-path must be answered within this time.")
    ] = 5.0
    health_failures: Annotated[
        int,
        Setting(HEALTH, integer(1), "Replace a worker that failed so many times in a row."),
    ] = 3

    log_level: Annotated[
        Literal["critical", "error", "warning", "info", "debug"],
        Setting(
            LOG,
            choice("critical", "error", "warning", "info", "debug"),
            "Least level that is logged.",
        ),
    ] = "info"
    log_file: Annotated[
        str | None,
        Setting(
            LOG,
            LOG_FILE,
            "Append all that would go to standard error to this file, also what the application "
            "prints there.",
            flags=("--error-logfile",),
            default="standard error",
            example='"error.log"',
            restart=True,
        ),
    ] = None
    access_log: Annotated[bool, Setting(LOG, FLAG, "Write one line for each request.")] = True
    access_log_file: Annotated[
        str | None,
        Setting(
            LOG,
            LOG_FILE,
            "Append the lines of access-log to this file.",
            flags=("--access-logfile",),
            default="standard output",
            example='"access.log"',
            restart=True,
        ),
    ] = None

    def worker_settings(self) -> WorkerSettings:
        """The data plane's part of the settings."""
        fields = WorkerSettings.__struct_fields__
        return WorkerSettings(**{field: getattr(self, field) for field in fields})


TABLE = tuple(
    sorted(
        [*declared(Settings), *declared(Shorthand)],
        key=lambda entry: PANELS.index(entry.setting.panel),
    )
)
"""Every setting, grouped by panel, in the order of declaration."""
