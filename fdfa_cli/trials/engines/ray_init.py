"""The one connection of this process to a Ray cluster, which it joins, or starts on this machine alone."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import Any

from fdfa_cli.errors import UsageError
from fdfa_cli.machine import cores

log = logging.getLogger(__name__)

#: Seconds after which a machine that does not answer is taken to be gone.
REACH = 5.0
#: Seconds in which a cluster may be joined without a remark, and seconds more after one.
QUICK, PATIENCE = 2.0, 28.0
#: Ray prints nothing, as the other engines do not: the outcome of a job says what went wrong.
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def connect(address: str | None) -> Any:
    """The package `ray`, connected to the cluster at `address`; None starts a cluster on this machine.

    A cluster that is started here listens on 127.0.0.1 only, reports to nobody, and ends with this process.
    Raises `UsageError` where Ray is not installed, or no cluster answers.
    """
    # Ray reads these while it is imported and starts. The first keeps it to the loopback interface; without
    # the last it would write a token to the home folder.
    own = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
    }
    with _variables(own if address is None else {}):
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
    """Start a cluster on this machine, whose files are removed when this process ends."""
    # Under /tmp, not TMPDIR, because the paths of sockets may not be long.
    folder = tempfile.mkdtemp(prefix="fdfa-ray-", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(ray.shutdown)
    with _variables({"TMPDIR": folder}):  # a worker that is killed leaves its temporary files there
        ray.init(address="local", num_cpus=cores(), include_dashboard=False, _temp_dir=folder, **QUIET)


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the processes that start while the context is entered."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _join(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        message = "start fdfa on a machine of the cluster and give host:port, or auto"
        raise UsageError(f"--address {address}: a Ray client cannot receive streams; {message}")
    if address != "auto":
        _reach(address)
    failed: list[Exception] = []
    # In a thread, which can be left behind: Ray waits for minutes, and no signal is heard meanwhile.
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
