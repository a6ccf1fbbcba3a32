"""Makes the next items of a stream while the last ones are used: decoding beside the networks, on a core of its own."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_LOOK_AGAIN_S = 0.1  # how soon the thread notices that nobody wants more


def read_ahead(items: Iterable[Item], depth: int = 3) -> Iterator[Item]:
    """The same items in the same order, made by one thread; at most `depth` of them wait. What goes wrong in the thread
    is raised here, in its place. Closing the iterator, or leaving its loop, ends the thread and closes `items`."""
    waiting: queue.Queue[tuple[str, object]] = queue.Queue(depth)
    unwanted = threading.Event()

    def offer(kind: str, value: object) -> bool:
        while not unwanted.is_set():
            try:
                waiting.put((kind, value), timeout=_LOOK_AGAIN_S)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not offer("item", item):
                    break
            offer("end", None)
        except BaseException as error:
            offer("error", error)
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "error":
                raise value  # type: ignore[misc]
            if kind == "end":
                return
            yield value  # type: ignore[misc]
    finally:
        unwanted.set()
        if thread is not threading.current_thread():  # garbage may be collected there
            thread.join()
