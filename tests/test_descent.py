"""What the optimising stages share: batches side by side, and many small problems descending side by side."""

import threading

import pytest
import torch

from hdtalk import descent
from hdtalk.descent import QuasiNewton, all_finite, in_batches, set_gradients

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def cores(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_each_index_once(cores):
    size, results = in_batches(
        list(range(11)), 4, lambda rows: [(row, threading.get_ident()) for row in rows], device=CPU
    )
    assert [row for part in results for row, _ in part] == list(range(11))
    assert size <= 4 and max(map(len, results)) == size
    here = {thread for part in results for _, thread in part} == {threading.get_ident()}
    assert here == (cores == 1)


def test_work_that_needs_its_turn_gets_it(cores):
    seen = []
    in_batches(list(range(6)), 2, seen.extend, device=CPU, in_turn=True)
    assert seen == list(range(6))


def test_a_batch_too_large_for_memory_is_halved_after_what_was_done_is_undone(cores):
    done = []

    def work(rows):
        if len(rows) > 1:
            raise MemoryError
        done.extend(rows)
        return rows

    size, results = in_batches([0, 1, 2, 3], 2, work, done.clear, device=CPU)
    assert size == 1 and sorted(done) == [0, 1, 2, 3] and results == [[0], [1], [2], [3]]


def test_other_errors_come_out(cores):
    with pytest.raises(RuntimeError, match="odd"):
        in_batches([0, 1], 1, lambda rows: (_ for _ in ()).throw(RuntimeError("odd")), device=CPU)


def test_gradients_of_parts_add_up():
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    set_gradients([a, b], [[torch.ones(2), None], [torch.full((2,), 2.0), None]])
    assert a.grad.tolist() == [3, 3] and b.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_noticed(bad):
    fine = [torch.randn(3), torch.randn(2, 2)]
    assert all_finite(fine) and not all_finite([*fine, torch.tensor([0.0, bad])])


def valleys(conditions):
    """Quadratic functions of 6 numbers, one per condition number, their minima at 1."""
    curvature = torch.stack([torch.logspace(0, torch.log10(torch.tensor(float(c))).item(), 6) for c in conditions])

    def value_and_gradient(x):
        return (curvature * (x - 1) ** 2).sum(1) / 2, curvature * (x - 1)

    return value_and_gradient


def descend(function, start, steps, radius=1.0):
    search, point = QuasiNewton(start, radius), start
    for _ in range(steps):
        search.tell(*function(point))
        point = search.ask()
    search.tell(function(point)[0])
    return search


def test_ill_conditioned_problems_are_solved_side_by_side():
    function = valleys([1.0, 30.0, 300.0])
    search = descend(function, torch.zeros(3, 6), 30)
    assert (search.value < 1e-4 * function(torch.zeros(3, 6))[0]).all()
    torch.testing.assert_close(function(search.best)[0], search.value)


def test_each_problem_goes_its_own_way():
    function = valleys([30.0])
    alone = descend(function, torch.zeros(1, 6), 8).best
    together = descend(valleys([30.0, 300.0, 2.0]), torch.zeros(3, 6), 8).best
    torch.testing.assert_close(together[:1], alone)


def test_no_step_is_longer_than_the_radius_allows_and_shapes_stay():
    search = QuasiNewton(torch.zeros(2, 3, 4), radius=0.5)
    search.tell(torch.ones(2), torch.randn(2, 3, 4))
    assert search.ask().shape == (2, 3, 4)
    torch.testing.assert_close(search.ask().flatten(1).norm(dim=1), torch.full((2,), 0.5))


def test_points_that_are_worse_or_not_finite_are_taken_back():
    search = QuasiNewton(torch.zeros(3, 2), radius=1.0)
    search.tell(torch.tensor([1.0, 1.0, 1.0]), torch.ones(3, 2))
    first = search.ask().clone()
    better = search.tell(torch.tensor([0.5, 2.0, float("nan")]), torch.ones(3, 2))
    assert better.tolist() == [True, False, False]
    torch.testing.assert_close(search.best, torch.stack([first[0], torch.zeros(2), torch.zeros(2)]))
    shorter = (search.ask() - search.best).norm(dim=1)
    assert shorter[1] < 0.5 and shorter[2] < 0.5 and search.ask().isfinite().all()


def test_workers_share_the_cores():
    workers = descent._workers(8)
    assert workers.count == descent.MAX_WORKERS
    assert workers.threads.submit(torch.get_num_threads).result() == 8 // descent.MAX_WORKERS
    assert descent._workers(1) is None
