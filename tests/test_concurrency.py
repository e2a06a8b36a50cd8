"""Work done ahead: in order, errors at their step, no thread left, waiting counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from culet.concurrency import Ahead, ahead_map


def alive() -> int:
    return sum(thread.name == "ahead" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 4, 100])
def test_items_come_in_order(depth: int) -> None:
    with Ahead((step * step for step in range(3, 20)), depth=depth) as items:
        assert list(items) == [step * step for step in range(3, 20)]
        assert list(items) == []  # a second reader finds nothing, and does not wait for ever
    assert alive() == 0


def test_nothing_to_do_is_nothing_to_wait_for() -> None:
    with Ahead(()) as items:
        assert list(items) == []
    assert alive() == 0


def failing(at: int) -> Callable[[int], int]:
    def make(step: int) -> int:
        if step == at:
            raise ValueError(f"step {step} is bad")
        return step

    return make


@pytest.mark.parametrize("at", [0, 5, 9])
def test_an_error_surfaces_at_its_step_and_not_before(at: int) -> None:
    seen: list[int] = []
    with (
        Ahead(map(failing(at), range(10))) as items,
        pytest.raises(ValueError, match=f"step {at} is bad"),
    ):
        seen.extend(items)
    assert seen == list(range(at))
    assert alive() == 0


def test_after_an_error_there_is_nothing_more() -> None:
    with Ahead(map(failing(0), range(10))) as items:
        with pytest.raises(ValueError, match="bad"):
            next(iter(items))
        assert list(items) == []


def test_no_more_is_made_than_was_asked_for_ahead() -> None:
    made: list[int] = []
    enough = threading.Event()

    def make(step: int) -> int:
        made.append(step)
        if len(made) == 4:  # one in the reader's hand, two in the queue, one waiting for room
            enough.set()
        return step

    with Ahead(map(make, range(100)), depth=2) as items:
        assert next(iter(items)) == 0
        assert enough.wait(10)
    assert made == [0, 1, 2, 3]
    assert alive() == 0


def test_leaving_early_ends_the_thread_even_when_the_queue_is_full() -> None:
    with Ahead(range(10_000), depth=1):
        pass
    assert alive() == 0


def test_an_error_in_the_block_ends_the_thread_too() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        Ahead(range(10_000)) as items,
    ):
        1 // next(iter(items))
    assert alive() == 0


def test_waiting_is_counted_while_the_reader_waits_and_not_while_it_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([10.0, 13.0, 100.0, 100.5, 200.0, 200.0])  # two items and the end
    monkeypatch.setattr("culet.concurrency.time.perf_counter", lambda: next(clock))
    with Ahead(range(2)) as items:
        waited = [items.waited_seconds for _ in items]
    assert waited == [3.0, 3.5]


# --- taken here, worked on there -----------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1, 3, 100])
def test_results_come_in_order_and_items_are_taken_here(depth: int) -> None:
    here, taken, worked = threading.get_ident(), set[int](), set[int]()

    def items() -> Iterator[int]:
        for item in range(10):
            taken.add(threading.get_ident())
            yield item

    def square(item: int) -> int:
        worked.add(threading.get_ident())
        return item * item

    results = ahead_map(square, items(), depth=depth)
    assert list(results) == [item * item for item in range(10)]
    assert taken == {here}
    assert here not in worked
    assert alive() == 0
    assert list(ahead_map(square, [], depth=depth)) == []


@pytest.mark.parametrize("depth", [1, 4])
def test_no_more_is_taken_than_was_asked_for(depth: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(99):
            taken.append(item)
            yield item

    results = ahead_map(abs, items(), depth=depth)
    assert [next(results), next(results)] == [0, 1]
    assert taken == list(range(2 + depth))
    results.close()
    assert alive() == 0


@pytest.mark.parametrize("at", [0, 3, 9])
def test_an_error_of_the_work_surfaces_at_its_item(at: int) -> None:
    seen: list[int] = []
    with pytest.raises(ValueError, match=f"step {at} is bad"):
        seen.extend(ahead_map(failing(at), range(10)))
    assert seen == list(range(at))
    assert alive() == 0


@pytest.mark.parametrize("at", [0, 3, 9])
def test_an_error_of_the_source_surfaces_after_the_items_before_it(at: int) -> None:
    seen: list[int] = []
    with pytest.raises(ValueError, match=f"step {at} is bad"):
        seen.extend(ahead_map(abs, map(failing(at), range(10)), depth=2))
    assert seen == list(range(at))
    assert alive() == 0


def test_ctrl_c_while_an_item_is_waited_for_ends_it_at_once() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(ahead_map(abs, items()))
    assert alive() == 0
