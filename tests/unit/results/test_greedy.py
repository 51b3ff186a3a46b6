"""The order of attacks that reaches the same worst case cheapest, on breaks and costs written by hand."""

from __future__ import annotations

import itertools

import numpy as np

from robench.results.greedy import Step, Tried, greedy

EVERY = np.ones(6, dtype=bool)


def attack(name: str, broke: list[int], passes: int | list[int], tried: list[int] | None = None) -> Tried:
    marks = [np.isin(np.arange(6), each) for each in (list(range(6)) if tried is None else tried, broke)]
    return Tried(name, *marks, np.broadcast_to(np.asarray(passes), 6).copy())


def told(steps: list[Step]) -> list[tuple[str, int, int, int]]:
    return [(step.attack.name, step.images, step.broken, step.standing) for step in steps]


def test_the_cheapest_break_comes_first_and_what_adds_nothing_is_dropped() -> None:
    attacks = [attack("strong", [0, 1, 2, 3], 1000), attack("cheap", [0, 1, 2], 10), attack("weaker", [0, 1], 20)]
    assert told(greedy(attacks, EVERY)) == [("cheap", 6, 3, 3), ("strong", 3, 1, 2)]


def test_what_later_attacks_make_needless_is_left_out() -> None:
    """Alone, "first" breaks most per pass, but the two that are needed for the rest break all that it does."""
    attacks = [attack("first", [0, 1, 2], 30), attack("left", [0, 1, 4], 31), attack("right", [2, 3, 5], 31)]
    assert {step.attack.name for step in greedy(attacks, EVERY)} == {"left", "right"}


def test_the_cost_is_that_of_images_that_stand() -> None:
    """Broken ones at 10, standing ones at 100: after "cheap", which broke two of its three, it sees four."""
    costly = attack("costly", [0, 1, 2], [10, 10, 10, 100, 100, 100])
    steps = greedy([attack("cheap", [0, 1], 1), costly], EVERY)
    assert [step.cost for step in steps] == [6, 10 + 3 * 100]
    assert steps[1].passes == 310 / 4


def test_an_image_that_was_never_tried_is_neither_broken_nor_free() -> None:
    late = attack("late", [4], 50, tried=[3, 4, 5])
    (step,) = greedy([late], EVERY)
    assert (step.broken, step.standing, step.unknown) == (1, 5, 3)
    assert step.cost == 6 * 50


def test_two_evaluations_of_one_attack_add_up() -> None:
    both = attack("a", [0], 10, tried=[0, 1]).beside(attack("a", [1, 2], 20, tried=[1, 2]))
    assert both.broke.nonzero()[0].tolist() == [0, 2]
    assert both.passes.tolist()[:3] == [10, 10, 20]


def test_images_that_were_wrong_from_the_start_do_not_count() -> None:
    (step,) = greedy([attack("a", [0, 1], 10)], np.isin(np.arange(6), [1, 2]))
    assert told([step]) == [("a", 2, 1, 1)]


def test_every_order_reaches_what_all_break_and_costs_no_more_than_all_at_once() -> None:
    noise = np.random.default_rng(0)
    for _ in range(50):
        attacks = [attack(str(i), noise.choice(6, 3).tolist(), int(noise.integers(1, 100))) for i in range(4)]
        steps = greedy(attacks, EVERY)
        union = np.logical_or.reduce([each.broke for each in attacks])
        assert steps[-1].standing == int((~union).sum())
        assert all(step.broken for step in steps)
        assert sum(step.cost for step in steps) <= sum(each.cost(EVERY) for each in attacks)
        assert all(a.standing == b.images for a, b in itertools.pairwise(steps))
