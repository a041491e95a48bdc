"""Ctrl-C and SIGTERM as a request that the training loop looks at between steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_request() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one does what it always does.

    Signals can only be caught in the main thread; elsewhere the event is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(_number: int, _frame: FrameType | None) -> None:
        event.set()
        put_back()

    for number in before:
        signal.signal(number, request)
    try:
        yield event
    finally:
        put_back()
