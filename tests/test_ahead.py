import threading
import time

import pytest

from hdtalk.ahead import read_ahead


def test_the_same_items_in_the_same_order():
    assert list(read_ahead(iter(range(100)))) == list(range(100))
    assert list(read_ahead([])) == []


def test_works_ahead_by_its_depth_and_no_further():
    made, used = [], threading.Event()

    def items():
        for k in range(20):
            made.append(k)
            yield k

    stream = read_ahead(items(), depth=3)
    assert next(stream) == 0
    deadline = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < deadline:  # one used, three waiting, one in hand
        used.wait(0.01)
    used.wait(0.3)
    assert made == [0, 1, 2, 3, 4]
    assert list(stream) == list(range(1, 20))


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise KeyError("torn")

    seen = []
    with pytest.raises(KeyError, match="torn"):
        for item in read_ahead(items()):
            seen.append(item)
    assert seen == [1, 2]


def test_leaving_the_loop_ends_the_thread_and_closes_the_source():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    stream = read_ahead(items())
    next(stream)
    stream.close()
    assert closed.is_set() and threading.active_count() == before
