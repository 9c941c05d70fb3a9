"""Who wins, what is reported, and where it says a value was set."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_supervise.settings.problems import SettingsError
from asgi_supervise.settings.schema import TABLE, Settings
from asgi_supervise.settings.sources import Loaded, load

Arguments = dict[str, Any]
Environment = dict[str, str]

APP = {"app": "demo:app"}


def settings(
    directory: Path, arguments: Arguments | None = None, environment: Environment | None = None
) -> Settings:
    return load(APP | (arguments or {}), environment or {}, directory).settings


def problems(
    directory: Path, arguments: Arguments | None = None, environment: Environment | None = None
) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(APP | (arguments or {}), environment or {}, directory)
    return str(caught.value).split("\n")


# --- order ----------------------------------------------------------------------------------------


def test_nothing_set_gives_the_defaults(tmp_path: Path) -> None:
    assert settings(tmp_path) == Settings(app="demo:app")


def test_command_line_environment_env_file_file_default(tmp_path: Path) -> None:
    (tmp_path / "asgi-supervise.toml").write_text('workers = 2\nenv-file = "vars"')
    (tmp_path / "vars").write_text("ASGI_SUPERVISE_WORKERS=3\n")
    environment = {"ASGI_SUPERVISE_WORKERS": "4"}
    assert settings(tmp_path, {"workers": "5"}, environment).workers == 5
    assert settings(tmp_path, {}, environment).workers == 4
    assert settings(tmp_path).workers == 3
    (tmp_path / "vars").write_text("")
    assert settings(tmp_path).workers == 2


def test_our_variable_counts_before_the_others(tmp_path: Path) -> None:
    environment = {"WEB_CONCURRENCY": "3", "ASGI_SUPERVISE_WORKERS": "2"}
    assert settings(tmp_path, {}, environment).workers == 2
    del environment["ASGI_SUPERVISE_WORKERS"]
    assert settings(tmp_path, {}, environment).workers == 3


def test_the_real_environment_counts_before_the_env_file_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("ASGI_SUPERVISE_WORKERS=3\n")
    arguments = {"env_file": "vars"}
    assert settings(tmp_path, arguments, {"WEB_CONCURRENCY": "5"}).workers == 5


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    environment = {"ASGI_SUPERVISE_WORKERS": "", "WEB_CONCURRENCY": ""}
    assert settings(tmp_path, {}, environment).workers == 1


def test_a_weaker_source_is_not_looked_at(tmp_path: Path) -> None:
    assert settings(tmp_path, {"workers": "2"}, {"WEB_CONCURRENCY": "many"}).workers == 2


# --- files ----------------------------------------------------------------------------------------


def test_own_file_counts_before_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.asgi-supervise]\nworkers = 2\nbacklog = 5")
    assert settings(tmp_path).workers == 2
    (tmp_path / "asgi-supervise.toml").write_text("workers = 3")
    assert settings(tmp_path) == Settings(app="demo:app", workers=3)


def test_a_pyproject_of_others_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n[tool.ruff]\nworkers = 3")
    assert settings(tmp_path) == Settings(app="demo:app")
    (tmp_path / "pyproject.toml").write_text("tool = 3")
    assert settings(tmp_path) == Settings(app="demo:app")


@pytest.mark.parametrize("name", ["other.toml", "sub/pyproject.toml"])
def test_config_names_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "asgi-supervise.toml").write_text("workers = 3")
    (tmp_path / "sub").mkdir()
    table = "[tool.asgi-supervise]\n" if "pyproject" in name else ""
    (tmp_path / name).write_text(table + "backlog = 7")
    expected = Settings(app="demo:app", backlog=7)
    assert settings(tmp_path, {"config": name}) == expected
    assert settings(tmp_path, {}, {"ASGI_SUPERVISE_CONFIG": name}) == expected


def test_keys_are_words_with_dashes_or_underscores(tmp_path: Path) -> None:
    (tmp_path / "asgi-supervise.toml").write_text(
        """
        app = "other:app"
        keep_alive_timeout = "500ms"
        head-max-size = "1MiB"
        body-timeout = "off"
        access-log = false
        bind = ["127.0.0.1:1", "[::1]:2"]
        header = ["A: b", "C: d"]
        forwarded-allow-ips = []
        uds-mode = "660"
        """
    )
    assert load({}, {}, tmp_path).settings == Settings(
        app="other:app",
        keep_alive_timeout_s=0.5,
        head_max_bytes=2**20,
        body_timeout_s=None,
        access_log=False,
        bind=("127.0.0.1:1", "[::1]:2"),
        headers=(("A", "b"), ("C", "d")),
        forwarded_allow_ips=(),
        uds_mode=0o660,
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("workers = ", "config = asgi-supervise.toml: is not valid TOML: "),
        ("workers = 0", "workers = 0: must be at least 1 (or auto) (in asgi-supervise.toml)"),
        ("workers = [1]", "workers = [1]: takes a single value (in asgi-supervise.toml)"),
        (
            "wrokers = 3",
            "wrokers = 3: there is no such setting; did you mean workers? (in asgi-supervise.toml)",
        ),
        ("zzz = 3", "zzz = 3: there is no such setting (in asgi-supervise.toml)"),
        ("config = 'x'", "config = x: there is no such setting"),
        ("[ws]\nmax-size = 3", "ws = {'max-size': 3}: there is no such setting"),
        ("bind = [1]", "bind = 1: must be host:port"),
        ("bind = []", "bind: must name at least one address (in asgi-supervise.toml)"),
        ("app = 3", "app = 3: must be text, in quotes (in asgi-supervise.toml)"),
        ('name = "a\\u0007"', "name = 'a\\x07': must be"),
    ],
)
def test_problems_of_a_file(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "asgi-supervise.toml").write_text(content)
    with pytest.raises(SettingsError) as caught:
        load({} if "app" in content else APP, {}, tmp_path)
    assert str(caught.value).startswith(problem)


def test_a_key_in_both_spellings_counts_once(tmp_path: Path) -> None:
    (tmp_path / "asgi-supervise.toml").write_text("uds-mode = '660'\nuds_mode = '600'")
    assert problems(tmp_path) == ["uds_mode = 600: is set twice (in asgi-supervise.toml)"]


def test_the_table_in_pyproject_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.asgi-supervise]\nworkers = 'x'")
    where = "in pyproject.toml, [tool.asgi-supervise]"
    assert problems(tmp_path) == [f"workers = x: not a whole number (or auto) ({where})"]
    (tmp_path / "pyproject.toml").write_text("[tool]\nasgi-supervise = 3")
    assert problems(tmp_path) == [f"tool.asgi-supervise = 3: must be a table ({where})"]


@pytest.mark.parametrize("name", ["config", "env_file"])
def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path, name: str) -> None:
    word = name.replace("_", "-")
    assert problems(tmp_path, {name: "nowhere"}) == [
        f"{word} = nowhere: cannot be read: No such file or directory (on the command line)"
    ]
    (tmp_path / "latin").write_bytes(b"A=\xe9")
    assert problems(tmp_path, {name: "latin"})[0].startswith(f"{word} = latin: ")


# --- env files ------------------------------------------------------------------------------------


def test_variables_of_the_env_file_are_handed_over_unless_they_are_set(tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("A=file\nB=file\nASGI_SUPERVISE_BACKLOG=9\n")
    loaded = load(APP | {"env_file": "vars"}, {"B": "real"}, tmp_path)
    assert loaded == Loaded(
        Settings(app="demo:app", backlog=9),
        {"A": "file", "ASGI_SUPERVISE_BACKLOG": "9"},
        tmp_path,
    )


def test_problems_of_an_env_file_name_its_lines(tmp_path: Path) -> None:
    (tmp_path / "vars").write_text(
        "nonsense\nASGI_SUPERVISE_WORKERS=x\nASGI_SUPERVISE_WORKER=2\nASGI_SUPERVISE_CONFIG=y\n"
    )
    assert problems(tmp_path, {"env_file": "vars"}) == [
        "workers = x: not a whole number (or auto) (in vars, line 2)",
        "vars, line 1: must be NAME=value",
        "ASGI_SUPERVISE_CONFIG = y: cannot be set here (in vars, line 4)",
        (
            "ASGI_SUPERVISE_WORKER = 2: there is no such setting; did you mean "
            "ASGI_SUPERVISE_WORKERS? (in vars, line 3)"
        ),
    ]


# --- environment ----------------------------------------------------------------------------------


def test_unknown_variables_with_our_prefix_are_problems(tmp_path: Path) -> None:
    assert problems(tmp_path, {}, {"ASGI_SUPERVISE_KEEPALIVE_TIMEOUT": "5", "OTHER": "x"}) == [
        (
            "ASGI_SUPERVISE_KEEPALIVE_TIMEOUT = 5: there is no such setting; did you mean "
            "ASGI_SUPERVISE_KEEP_ALIVE_TIMEOUT? (in the environment)"
        )
    ]


def test_what_a_worker_or_kubernetes_sets_is_no_setting(tmp_path: Path) -> None:
    environment = {
        "ASGI_SUPERVISE_SLOT": "0",
        "ASGI_SUPERVISE_GENERATION": "1",
        "ASGI_SUPERVISE_SERVICE_HOST": "10.0.0.1",
        "ASGI_SUPERVISE_SERVICE_PORT_HTTP": "80",
        "ASGI_SUPERVISE_PORT": "tcp://10.0.0.1:80",
        "ASGI_SUPERVISE_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert settings(tmp_path, {}, environment) == Settings(app="demo:app")


def test_lists_in_the_environment(tmp_path: Path) -> None:
    environment = {
        "ASGI_SUPERVISE_BIND": "localhost:1, unix:/x",
        "FORWARDED_ALLOW_IPS": "10.0.0.0/8,*",
        "ASGI_SUPERVISE_HEADER": "A: b, c\nD: e",
        "ASGI_SUPERVISE_ACCESS_LOG": "off",
    }
    assert settings(tmp_path, {}, environment) == Settings(
        app="demo:app",
        bind=("localhost:1", "unix:/x"),
        forwarded_allow_ips=("10.0.0.0/8", "*"),
        headers=(("A", "b, c"), ("D", "e")),
        access_log=False,
    )


# --- where to listen ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environment", "bind"),
    [
        ({"port": "9000"}, {}, ("127.0.0.1:9000",)),
        ({"port": "0"}, {}, ("127.0.0.1:0",)),
        ({"host": "0.0.0.0"}, {}, ("0.0.0.0:8000",)),
        ({"host": "::1", "port": "1"}, {}, ("[::1]:1",)),
        ({"uds": "/x"}, {}, ("unix:/x",)),
        ({"fd": "3"}, {}, ("fd://3",)),
        (
            {"bind": ["a:1", "[::1]:2", "unix:x", "fd://4"]},
            {},
            ("a:1", "[::1]:2", "unix:x", "fd://4"),
        ),
        ({"bind": ["a:0", "a:0"]}, {}, ("a:0", "a:0")),
        ({"port": "9000"}, {"ASGI_SUPERVISE_HOST": "a"}, ("a:9000",)),
        ({"port": "9000"}, {"ASGI_SUPERVISE_BIND": "a:1"}, ("127.0.0.1:9000",)),
        ({"uds": "/x"}, {"ASGI_SUPERVISE_PORT": "1"}, ("unix:/x",)),
        ({"bind": ["a:1"]}, {"ASGI_SUPERVISE_FD": "3"}, ("a:1",)),
    ],
)
def test_bind(
    tmp_path: Path,
    arguments: dict[str, Any],
    environment: dict[str, str],
    bind: tuple[str, ...],
) -> None:
    assert settings(tmp_path, arguments, environment).bind == bind


def test_two_ways_in_one_source_are_a_conflict(tmp_path: Path) -> None:
    assert problems(tmp_path, {"bind": ["a:1"], "port": "2", "uds": "/x"}) == [
        "bind and port and uds: say where to listen in one way; bind can say them all "
        "(on the command line)"
    ]


def test_an_address_given_twice(tmp_path: Path) -> None:
    assert problems(tmp_path, {"bind": ["a:1", "a:1"]}) == [
        "bind = a:1: is given twice (on the command line)"
    ]


# --- what must fit together -----------------------------------------------------------------------


def test_the_reserve_follows_a_short_graceful_timeout(tmp_path: Path) -> None:
    assert settings(tmp_path, {"graceful_timeout_s": "60"}).shutdown_reserve_s == 5
    assert settings(tmp_path, {"graceful_timeout_s": "4"}).shutdown_reserve_s == 2
    both = settings(tmp_path, {"graceful_timeout_s": "4", "shutdown_reserve_s": "3"})
    assert both.shutdown_reserve_s == 3
    assert problems(tmp_path, {"graceful_timeout_s": "4", "shutdown_reserve_s": "4"}) == [
        "shutdown-reserve = 4 s: must be less than graceful-timeout, which is 4 s "
        "(on the command line)"
    ]


def test_the_warning_follows_a_short_worker_timeout(tmp_path: Path) -> None:
    assert settings(tmp_path, {"worker_timeout_s": "0.4"}).stall_warn_s == 0.2
    assert settings(tmp_path, {"worker_timeout_s": "off"}).stall_warn_s == 0.25
    assert settings(tmp_path, {"stall_warn_s": "off"}).stall_warn_s is None
    alone = settings(tmp_path, {"worker_timeout_s": "off", "stall_warn_s": "60"})
    assert (alone.worker_timeout_s, alone.stall_warn_s) == (None, 60)
    assert problems(tmp_path, {"stall_warn_s": "30"}) == [
        "stall-warn = 30 s: must be less than worker-timeout, which is 30 s (on the command line)"
    ]
    assert problems(tmp_path, {"stall_warn_s": "30", "worker_timeout_s": "soon"}) == [
        (
            "worker-timeout = soon: not a duration: write seconds, or a number with ms, s, m or h, "
            "or off (on the command line)"
        )
    ]


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("balance = false", "balance = off; choose exact or kernel there, or leave it out"),
        ('bake-time = "0s"', "bake-time = 0; give it a time, or leave it out"),
    ],
)
def test_a_canary_has_no_weight_where_nothing_is_handed_on_or_nobody_watches(
    tmp_path: Path, file: str, complaint: str
) -> None:
    (tmp_path / "asgi-supervise.toml").write_text(file)
    assert settings(tmp_path).canary_weight is None
    assert problems(tmp_path, {"canary_weight": "0.1"}) == [
        f"canary-weight: does nothing with {complaint} (on the command line)"
    ]
    environment = {"ASGI_SUPERVISE_BALANCE": "kernel", "ASGI_SUPERVISE_BAKE_TIME": "1s"}
    found = settings(tmp_path, {"canary_weight": "0.1"}, environment)
    assert (found.balance, found.canary_weight) == ("kernel", 0.1)


def test_all_that_is_wrong_with_a_canary_is_said_at_once(tmp_path: Path) -> None:
    arguments = {"canary_weight": "0.1", "balance": "off", "bake_time_s": "0"}
    assert len(problems(tmp_path, arguments)) == 2
    assert len(problems(tmp_path, arguments | {"canary_weight": "2"})) == 3


def test_a_health_check_needs_a_path(tmp_path: Path) -> None:
    (tmp_path / "asgi-supervise.toml").write_text("health-failures = 2")
    assert problems(tmp_path, {"health_interval_s": "2"}) == [
        "health-interval: does nothing without health-path; set that, too (on the command line)",
        "health-failures: does nothing without health-path; set that, too (in asgi-supervise.toml)",
    ]
    found = settings(tmp_path, {"health_path": "/healthz?deep=1"})
    assert (found.health_path, found.health_failures) == ("/healthz?deep=1", 2)
    assert settings(tmp_path, {"health_path": "off"}).health_path is None


@pytest.mark.parametrize(
    "arguments", [{"health_timeout_s": "9"}, {"startup_timeout_s": "4"}, {"health_timeout_s": "60"}]
)
def test_a_health_check_must_be_able_to_fail_while_a_worker_starts(
    tmp_path: Path, arguments: Arguments
) -> None:
    arguments = {"startup_timeout_s": "9"} | arguments
    settings(tmp_path, arguments | {"health_path": "off"})
    assert problems(tmp_path, arguments | {"health_path": "/x"}) == [
        f"health-timeout = {arguments.get('health_timeout_s', '5')} s: must be less than "
        f"startup-timeout, which is {arguments['startup_timeout_s']} s (on the command line)"
    ]


def test_log_files_are_where_chdir_says(tmp_path: Path) -> None:
    (tmp_path / "site/log").mkdir(parents=True)
    arguments = {"chdir": "site", "log_file": "log/error", "access_log_file": "/dev/null"}
    loaded = load(APP | arguments, {}, tmp_path)
    assert loaded.settings.log_file == str(tmp_path / "site/log/error")
    assert loaded.settings.access_log_file == "/dev/null"
    assert loaded.directory == tmp_path / "site"
    assert not list((tmp_path / "site/log").iterdir())
    assert settings(tmp_path, {"log_file": "-", "access_log_file": "-"}) == Settings(app="demo:app")


def test_log_files_must_be_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert problems(tmp_path, {"log_file": "no/where", "access_log_file": "file/x"}) == [
        f"log-file = no/where: there is no directory {tmp_path}/no; make it first "
        "(on the command line)",
        f"access-log-file = file/x: there is no directory {tmp_path}/file; make it first "
        "(on the command line)",
    ]
    assert problems(tmp_path, {"log_file": ".", "access_log_file": "loop"}) == [
        "log-file = .: is a directory; name a file in it (on the command line)",
        "access-log-file = loop: cannot be opened: Too many levels of symbolic links "
        "(on the command line)",
    ]
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert problems(tmp_path, {"log_file": "file", "access_log_file": "new"}) == [
        f"log-file = file: {me} may not write to it (on the command line)",
        f"access-log-file = new: {me} may not make files in {tmp_path} (on the command line)",
    ]


def test_directories_must_exist(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    assert settings(tmp_path, {"chdir": "a", "app_dir": "b"}).app_dir == "b"
    assert problems(tmp_path, {"chdir": "b", "app_dir": "a"}) == [
        "chdir = b: there is no such directory (on the command line)"
    ]
    assert problems(tmp_path, {"chdir": "a", "app_dir": "a"}) == [
        "app-dir = a: there is no such directory (on the command line)"
    ]


def test_an_application_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="app: say which application to run"):
        load({}, {}, tmp_path)


def test_only_root_may_name_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(os, "getegid", lambda: 54321)
    assert settings(tmp_path, {"user": "54321", "group": "54321"}).user == "54321"
    assert problems(tmp_path, {"user": "root", "group": "0"}) == [
        "user = root: only root can change it; start as root or leave it out (on the command line)",
        "group = 0: only root can change it; start as root or leave it out (on the command line)",
    ]


def test_all_problems_at_once(tmp_path: Path) -> None:
    (tmp_path / "asgi-supervise.toml").write_text("lifespan = 'never'\nbacklogg = 3")
    arguments = {"app": "nothing", "port": "x", "headers": ["a", "b: c", "d"]}
    environment = {"ASGI_SUPERVISE_WS_MAX_SIZE": "big", "ASGI_SUPERVISE_X": "1"}
    found = problems(tmp_path, arguments, environment)
    assert [line.partition(":")[0].partition(" =")[0] for line in found] == [
        *("app", "lifespan", "port", "ws-max-size", "header", "header"),
        *("ASGI_SUPERVISE_X", "backlogg"),
    ]


RAW = st.one_of(st.text(max_size=5), st.booleans(), st.lists(st.text(max_size=5), max_size=2))


@given(st.dictionaries(st.sampled_from([entry.field for entry in TABLE]), RAW, max_size=6))
def test_whatever_is_given_there_are_settings_or_problems(arguments: dict[str, Any]) -> None:
    try:
        loaded = load(APP | arguments, {}, Path("/nonexistent"))
    except SettingsError as error:
        lines = str(error).split("\n")
        count = len(error.problems)
    else:
        assert isinstance(loaded.settings, Settings)
        return
    assert len(lines) == count > 0


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("loop", "trio", "runs no WSGI application, which waits in threads; leave it out"),
        ("lifespan", "on", "needs an ASGI application: WSGI has no lifespan; leave it out"),
    ],
)
def test_wsgi_has_neither_trio_nor_lifespan(
    tmp_path: Path, field: str, value: str, complaint: str
) -> None:
    (tmp_path / "asgi-supervise.toml").write_text(f'{field} = "{value}"')
    assert getattr(settings(tmp_path), field) == value
    assert problems(tmp_path, {"interface": "wsgi"}) == [
        f"{field} = {value}: {complaint} (in asgi-supervise.toml)"
    ]
