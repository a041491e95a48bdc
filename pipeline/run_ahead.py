"""A generator run ahead of whoever takes from it, in a thread, by a bounded number of items."""

import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_LOOK_SECONDS = 0.1


@contextmanager
def run_ahead(items: Generator[T, None, None], most: int) -> Iterator[Iterator[T]]:
    """The items in their order, made by a thread that has at most `most` of them ready.

    What the generator raises is raised here, after the items before it. The thread has ended
    when the context ends, however it ends; the generator is then closed.
    """
    ready: queue.Queue[tuple[T] | None] = queue.Queue(most)
    stopped = threading.Event()

    def put(item: tuple[T] | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue
            return

    def make() -> None:
        try:
            for item in items:
                put((item,))
                if stopped.is_set():
                    return
        finally:
            items.close()
            put(None)

    def taken() -> Iterator[T]:
        while (item := ready.get()) is not None:
            yield item[0]
        made.result()

    with ThreadPoolExecutor(1, thread_name_prefix="exo2ego-ahead") as thread:
        made = thread.submit(make)
        try:
            yield taken()
        finally:
            stopped.set()
