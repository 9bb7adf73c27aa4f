"""The one connection of this process to a Ray cluster, which it joins, or starts on this machine alone."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import Any

from fdfa_cli.errors import UsageError
from fdfa_cli.machine import cores

log = logging.getLogger(__name__)

#: Seconds after which a machine that does not answer is taken to be gone.
REACH = 5.0
#: Seconds in which a cluster is joined without a word, and then again with one.
QUICK, PATIENCE = 2.0, 28.0
#: As quiet as the other engines: what goes wrong in a task is told by its outcome.
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def connect(address: str | None) -> Any:
    """The package `ray`, connected to the cluster at `address`, or with None to one of this machine's own.

    The own cluster listens on 127.0.0.1 only, reports to nobody, and goes with this process. Raises
    `UsageError` where Ray is not installed, or no cluster answers.
    """
    if address is None:
        # Read when the package is imported. The first is how Ray keeps to the loopback interface; without
        # the last it writes a token to the home folder.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs the package ray: pip install 'fdfa-cli[ray]'") from error
    if ray.is_initialized():
        return ray
    if address is None:
        _start(ray)
    else:
        _join(ray, address)
    return ray


def _start(ray: Any) -> None:
    # Not under TMPDIR: the names of sockets may not be long.
    folder = tempfile.mkdtemp(prefix="fdfa-ray-", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(ray.shutdown)
    with _variable("TMPDIR", folder):  # so that it takes with it what a killed worker leaves behind
        ray.init(address="local", num_cpus=cores(), include_dashboard=False, _temp_dir=folder, **QUIET)


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable for the processes that start meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _join(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        message = "start fdfa on a machine of the cluster and give host:port, or auto"
        raise UsageError(f"--address {address}: a Ray client cannot receive streams; {message}")
    if address != "auto":
        _reach(address)
    failed: list[Exception] = []
    # In a thread, since Ray waits for minutes, in which no signal is heard; it is no longer waited for then.
    joining = Thread(target=_try, args=(partial(ray.init, address=address, **QUIET), failed), daemon=True)
    joining.start()
    joining.join(QUICK)
    if joining.is_alive():
        log.info("connecting to the Ray cluster at %s", address)
        joining.join(PATIENCE)
    if joining.is_alive():
        raise UsageError(f"--address {address}: no Ray cluster answers within {PATIENCE + QUICK:.0f} seconds")
    for error in failed:
        if not isinstance(error, ConnectionError | RuntimeError | ValueError | TimeoutError):
            raise error
        raise UsageError(f"--address {address}: {str(error).partition(chr(10))[0]}") from error


def _reach(address: str) -> None:
    """Raise `UsageError` where nothing listens at `address`, which Ray itself says after minutes only."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--address {address}: must be host:port, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--address {address}: nothing answers there: {reason}") from error


def _try(act: Callable[[], object], failed: list[Exception]) -> None:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - raised again by the thread that waits for this one
        failed.append(error)
