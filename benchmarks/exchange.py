"""How long one core takes to see what another has written: the state a machine is in.

    python benchmarks/exchange.py        ns from a write to the answer of another process, median

Cores that share a cache answer in about half the time of those that do not, as on processors made of several
dies; a server moves its virtual cores between them within seconds. Threads that work on common operands are
slowed by it (two that multiply 64×10 by 10×11760: 0.2 and 0.9 ms), those that share nothing are not.
"""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
import time
from multiprocessing.shared_memory import SharedMemory

from fdfa_cli.machine import cores

ROUNDS = 20_000
#: Rounds until the other process has settled on its core.
SETTLING = 2_000
#: Seconds after which something else must be wrong.
TIMEOUT = 60
#: Bytes from one side's byte to the other's: each in a cache line of its own.
APART = 64


def answer(name: str) -> None:
    """Write back what the other side writes."""
    memory = SharedMemory(name)
    theirs, mine = memory.buf[:1], memory.buf[APART : APART + 1]
    for i in range(1, ROUNDS + 1):
        while theirs[0] != i % 128:
            pass
        mine[0] = i % 128
    theirs.release(), mine.release()
    memory.close()


def exchanges() -> list[float]:
    """Seconds of each round between this process and another."""
    memory = SharedMemory(create=True, size=4096)
    memory.buf[0] = memory.buf[APART] = 0
    other = multiprocessing.get_context("spawn").Process(target=answer, args=(memory.name,))
    other.start()
    mine, theirs, seconds = memory.buf[:1], memory.buf[APART : APART + 1], []
    for i in range(1, ROUNDS + 1):
        begun = time.perf_counter()
        mine[0] = i % 128
        while theirs[0] != i % 128:
            pass
        seconds.append(time.perf_counter() - begun)
    other.join()
    mine.release(), theirs.release()
    memory.close()
    memory.unlink()
    return seconds[SETTLING:]


def exchange() -> float | None:
    """Seconds of an exchange, measured by processes that have not loaded torch; None on a single core."""
    if cores() < 2:
        return None
    command = [sys.executable, __file__]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    return float(done.stdout) / 1e9


if __name__ == "__main__":
    print(round(statistics.median(exchanges()) * 1e9))
