"""`scowd`: reads the configuration, binds the sockets, opens the engine, serves until it is told to stop."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from aiohttp import web

from scow import points
from scow.api import metrics
from scow.api.app import make_app
from scow.api.connection import connections
from scow.api.flags import parse_flags
from scow.api.interfaces import EngineApi
from scow.api.json_log import JsonFormatter
from scow.api.listeners import Listener, bind
from scow.api.pidfile import PidFile
from scow.api.tls import server_context
from scow.api.versions import OLDEST
from scow.engine.config import EngineConfig, InvalidConfig, make_config, read_config_file
from scow.errors import ScowError

_log = logging.getLogger(__name__)

_STREAMS_S: Final = 2.0
"""How long a shutdown waits for replies that are being sent."""

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}


class OpenEngine(EngineApi, Protocol):
    """An engine that has to be closed."""

    async def aclose(self) -> None: ...

    async def reload(self, config: EngineConfig) -> None: ...


Opener = Callable[[EngineConfig], Awaitable[OpenEngine]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; the exit status is 0 after a clean stop and 1 if it couldn't start."""
    flags = parse_flags(sys.argv[1:] if arguments is None else arguments)
    try:

        def read() -> EngineConfig:
            return make_config(flags.given, read_config_file(flags.file, required=flags.file_required), os.environ)

        config = read()
        if flags.only_validate:
            print("configuration OK")
            return 0
        set_up_logging(config)
        adjust_oom_score(config.oom_score_adjust)
        if points.VARIABLE in os.environ:
            points.arm(Path(os.environ[points.VARIABLE]))
        asyncio.run(run(config, _open_engine, reread=read))
    except ScowError as error:
        print(f"scowd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        _log.debug("could not start", exc_info=error)
        where = f"{error.filename}: " if error.filename else ""
        print(f"scowd: could not start: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    return 0


async def _without_collector(opening: Awaitable[OpenEngine]) -> OpenEngine:
    """Wait for the engine with Python's collector of cycles at rest.

    All that is read at start stays: looking through it again and again takes a third of the time, with many images.
    """
    gc.disable()
    try:
        return await opening
    finally:
        gc.freeze()
        gc.enable()


async def _open_engine(config: EngineConfig) -> OpenEngine:
    from scow.engine.opening import open_engine  # `scowd --help` and a wrong flag need none of it

    return await open_engine(config)


def set_level(config: EngineConfig) -> None:
    """Say as much as the configuration wants."""
    logging.getLogger().setLevel(logging.DEBUG if config.debug else _LEVELS.get(config.log_level, logging.INFO))


def set_up_logging(config: EngineConfig) -> None:
    """Log to stderr; the journal or whoever started us adds what it wants."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if config.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
    set_level(config)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)


def adjust_oom_score(value: int) -> None:
    """Tell the kernel how readily to end the engine when memory runs out. Raises InvalidConfig."""
    if value:
        try:
            Path("/proc/self/oom_score_adj").write_text(str(value))
        except OSError as error:
            raise InvalidConfig(f"oom-score-adjust: {value}: {error.strerror}") from error


async def run(
    config: EngineConfig,
    open_engine: Opener,
    *,
    stop: asyncio.Event | None = None,
    reread: Callable[[], EngineConfig] | None = None,
) -> None:
    """Serve `config` until SIGTERM or SIGINT arrives, or `stop` is set. Raises ScowError if it can't start.

    At SIGHUP `reread` gives the configuration as it is now, and the engine takes of it what can change meanwhile.
    """
    stopping = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signals = _Signals(stopping)
    for number in handled:
        loop.add_signal_handler(number, signals.received, number)
    pidfile = PidFile(config.pidfile) if config.pidfile is not None else None
    try:
        async with contextlib.AsyncExitStack() as stack:
            if pidfile is not None:
                pidfile.write()
                stack.callback(pidfile.remove)
            tls = tls_of(config)
            listeners: list[Listener] = []
            for host in config.hosts or (default_host(config),):
                listener = bind(host, tls=tls is not None, group=config.group)
                stack.callback(listener.close)
                listeners.append(listener)
                _warn_if_open(host, config)
            engine = await _without_collector(open_engine(config))
            stack.push_async_callback(engine.aclose)
            if reread is not None:
                signals.reload = lambda: _reload(engine, reread)
                stack.push_async_callback(signals.aclose)
            runner = web.AppRunner(
                make_app(
                    engine,
                    tuple(map(int, config.min_api_version.split("."))) if config.min_api_version else OLDEST,
                    experimental=config.experimental,
                ),
                handle_signals=False,
                handler_cancellation=True,
                shutdown_timeout=_STREAMS_S,
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            assert runner.server is not None
            factory = connections(runner.server)
            for listener in listeners:
                await listener.serve(factory, tls)
                stack.callback(listener.close)
            if config.metrics_addr:
                await stack.enter_async_context(metrics.serving(engine, config.metrics_addr))
            _log.info("serving on %s", ", ".join(listener.address for listener in listeners))
            notify("READY=1")
            await stopping.wait()
            _log.info("stopping")
            notify("STOPPING=1")
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


class _Signals:
    """What the daemon does when it is signalled: the first asks it to stop, the third insists."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._stops = 0
        self._reloads: set[asyncio.Task[None]] = set()
        self.reload: Callable[[], Coroutine[Any, Any, None]] | None = None

    def received(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            if self.reload is not None:
                task = asyncio.get_running_loop().create_task(self.reload(), name="reload")
                self._reloads.add(task)
                task.add_done_callback(self._reloads.discard)
            return
        self._stops += 1
        if self._stops >= 3:
            os._exit(128 + number)
        self._stopping.set()

    async def aclose(self) -> None:
        """Let reloads come to their end, and begin no more."""
        self.reload = None
        await asyncio.gather(*self._reloads, return_exceptions=True)


async def _reload(engine: OpenEngine, reread: Callable[[], EngineConfig]) -> None:
    """Read the configuration again; one that makes no sense changes nothing, and is told of."""
    try:
        config = await asyncio.to_thread(reread)
        await engine.reload(config)
    except ScowError as error:
        _log.error("the configuration is not reloaded: %s", error)
        return
    set_level(config)


def default_host(config: EngineConfig) -> str:
    """Where the API is served unless told otherwise."""
    return f"unix://{config.exec_root / 'scow.sock'}"


def tls_of(config: EngineConfig) -> ssl.SSLContext | None:
    """Make the TLS context that the configuration asks for, None if it asks for none. Raises InvalidConfig."""
    if not (config.tls or config.tlsverify):
        return None
    folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    cert, key = config.tlscert or str(folder / "cert.pem"), config.tlskey or str(folder / "key.pem")
    ca = (config.tlscacert or str(folder / "ca.pem")) if config.tlsverify else None
    try:
        return server_context(cert=cert, key=key, ca=ca)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidConfig(f"could not load TLS certificate {cert}, key {key} or CA {ca}: {error}") from error


def notify(state: str) -> None:
    """Tell systemd, if it started us and wants to know. sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())


def _warn_if_open(host: str, config: EngineConfig) -> None:
    if host.startswith("tcp://") and not config.tlsverify:
        _log.warning("%s is open to everybody who can reach it: who uses the API is root here. See --tlsverify", host)


if __name__ == "__main__":
    sys.exit(main())
