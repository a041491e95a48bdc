"""Signals as a request that the training loop looks at between steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75}
"""By the signal that ended a run early, what the shell exits with.

75 is EX_TEMPFAIL of sysexits.h: run the same again. SIGUSR1 is what SLURM sends ahead of the time
limit (`--signal=USR1@300`), SIGTERM what it sends when it preempts.
"""


@dataclass(eq=False)
class StopRequest:
    """Which signal has asked the run to end; None as long as none has."""

    by: signal.Signals | None = None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """What the first of EXIT_CODES' signals is noted in; a second one does what it always does.

    Signals can only be caught in the main thread; elsewhere nothing is ever noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in EXIT_CODES}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        request.by = signal.Signals(number)
        put_back()

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        put_back()


def exit_code(stopped_by: str | None) -> int:
    """What the shell exits with after a run that this signal stopped; 0 if none did."""
    return EXIT_CODES[signal.Signals[stopped_by]] if stopped_by else 0
