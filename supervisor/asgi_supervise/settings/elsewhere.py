"""Options that other servers have and we have not: what to do instead, for who moved here.

It is looked at only when the command line was not understood, and it names all of them at once.
The pages *Coming from …* in docs/ say more; a test holds this table to theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from asgi_supervise.settings.schema import TABLE
from asgi_supervise.settings.values import APPLICATION, FLAG, Kind

_GONE = {
    "--ssl-* --certfile --keyfile* --ca-certs --cert-reqs --ciphers --verify-mode --no-ssl-*"
    " --suppress-ragged-eofs --do-handshake-on-connect --insecure-bind": "there is no TLS here: let"
    " a proxy in front do it",
    "--http2* --no-http2* --http-protocols --quic-bind": "HTTP/1.1 is spoken: let a proxy in front"
    " speak HTTP/2 and HTTP/3",
    "--http --http-parser --http1-pipeline-flush --no-http1-pipeline-flush --ws --no-ws"
    " --http1-keep-alive": "leave it out: HTTP/1.1 and WebSocket are always served, in one way",
    "--no-http1-keep-alive": "connections are always kept alive; see --keep-alive-timeout",
    "-k --worker-class --runtime-* --task-impl --blocking-threads*": "leave it out: each worker"
    " runs one event loop; see --loop and --interface",
    "--reuse-port --worker-tmp-dir --no-sendfile --control-socket* --no-control-socket"
    " --enable-backlog-metric --initgroups --reset-contextvars"
    " --asgi-disconnect-grace-period": "leave it out: it is not needed",
    "--worker-connections --backpressure": "see --limit-concurrency, which answers 503",
    "--max-requests* --limit-max-requests* --workers-lifetime --workers-max-rss --rss-*": "workers"
    " are not replaced for their age or size; a reload (kill -HUP) replaces all of them",
    "--respawn-* --no-respawn-*": "leave it out: workers that die are always replaced",
    "--reload* --no-reload*": "files are not watched: run watchfiles --filter python"
    " 'asgi-supervise …' .",
    "--limit-request-line --limit-request-field_size --h11-* --http1-buffer-size": "see"
    " --head-max-size, for the whole head of a request",
    "--http1-header-read-timeout": "write --head-timeout, in seconds or with a unit: 500ms",
    "--read-timeout": "see --head-timeout and --body-timeout",
    "--http-timeout --websocket_* --application-close-timeout": "there is no limit for how long the"
    " application takes; see --worker-timeout for one that hangs",
    "--websocket-max-frame-size": "see --ws-max-size, for the whole message",
    "--ping-interval": "write --ws-ping-interval",
    "--ping-timeout": "write --ws-ping-timeout",
    "--workers-kill-timeout": "write --graceful-timeout",
    "--url-path-prefix": "write --root-path, if the proxy in front removes the prefix",
    "--endpoint": "write --bind, which may be given more than once",
    "--proxy-headers-*": "see --forwarded-allow-ips; the headers are X-Forwarded-* and Forwarded",
    "--proxy-protocol --proxy-allow-from --protocol --uwsgi-allow-from": "HTTP is spoken, neither"
    " the PROXY nor the uWSGI protocol: let the proxy in front send X-Forwarded-*",
    "--server-name": "see --header 'Server: …' with --no-server-header; hosts are not filtered",
    "--no-server-name": "write --no-server-header",
    "--forwarder-headers --header-map --permit-* --strip-header-spaces"
    " --casefold-http-method": "what can be read in two ways is always refused",
    "--log-config* --logger-class --capture-output --log-fmt --use-colors --no-use-colors --log"
    " --no-log --verbosity --error-log --debug -R --enable-stdio-inheritance": "see --log-level and"
    " --log-file; the application configures its own logging",
    "--log-syslog* --disable-redirect-access-to-syslog": "the log goes to standard error: systemd"
    " or a container collects it",
    "--access-logformat --access-log-fmt": "the lines of the access log have one format",
    "--statsd-* --dogstatsd-tags --metrics* --no-metrics": "there are no metrics yet",
    "--static-path-*": "let the application or a proxy in front serve files",
    "--working-dir --pythonpath": "see --app-dir and --chdir",
    "--env-files": "write --env-file; one file",
    "--env": "set it before the start, or in the file of --env-file",
    "--daemon": "it stays in the foreground: let systemd or a container run it",
    "--check-config --print-config --spew": "a mistake in the settings is reported at the start",
    "--dirty-*": "there are no workers but those that serve",
    "--paste*": "name the application as module:attribute",
    "-c": "write --config, for a file in TOML",
    "-D": "it stays in the foreground: let systemd or a container run it",
    "-e": "set it before the start, or in the file of --env-file (daphne: write --bind)",
    "-g": "write --group, for what workers run as",
    "-m": "write --umask, an octal mode",
    "-p": "write --pid FILE or --port N",
    "-s": "see --header 'Server: …' with --no-server-header",
    "-t": "write --timeout, for workers that hang",
    "-u": "write --user NAME, for what workers run as, or --uds PATH",
    "-v": "see --log-level, and --version",
}
_ADVICE = {pattern: advice for patterns, advice in _GONE.items() for pattern in patterns.split()}
_FLAGS = {flag for entry in TABLE if entry.setting.kind.is_flag for flag in entry.flags}
_TAKE_A_VALUE = {flag for entry in TABLE for flag in entry.flags} - _FLAGS


def advice(words: Sequence[str]) -> Iterator[str]:
    """A line for each of the command line's ``words`` that means something elsewhere."""
    pairs = list(_own_words(words))
    has_application = any(_can_be(APPLICATION, word) for word, _ in pairs)
    for word, following in pairs:
        option, equals, _ = word.partition("=")
        if option in _FLAGS:
            if equals or _is_value(following, has_application):
                yield f"{option} takes no value: write {option} or --no-{option.removeprefix('--')}"
        elif option.startswith("-") and option not in _TAKE_A_VALUE and (found := _found(option)):
            yield f"there is no {option}: {found}"


def _own_words(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word that is no value of an option of ours, and the next; no options after a ``--``."""
    is_value = False
    for word, following in pairwise([*words, "--"]):
        if not is_value:
            if word == "--":
                return
            yield word, following
        is_value = not is_value and word in _TAKE_A_VALUE


def _is_value(word: str, has_application: bool) -> bool:
    """Whether ``word``, behind a switch, was meant as its value: it may be the application, also
    one that is misspelled, unless another word is that.
    """
    if word == "-" or _can_be(FLAG, word):
        return True
    return has_application and not word.startswith("-") and not _can_be(APPLICATION, word)


def _can_be(kind: Kind, word: str) -> bool:
    try:
        kind.parse(word)
    except ValueError:
        return False
    return True


def _found(option: str) -> str | None:
    if option in _ADVICE:
        return _ADVICE[option]
    starts = (pattern for pattern in _ADVICE if pattern.endswith("*"))
    return next((_ADVICE[start] for start in starts if option.startswith(start[:-1])), None)
