"""Kappa against published results, and its interval with few labels."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fledge.scoring.agreement import agreement


def _labels(table: list[list[int]]) -> tuple[list[float], list[float]]:
    cells = [(r, c) for r, row in enumerate(table) for c, count in enumerate(row) for _ in range(count)]
    return [float(r) for r, _ in cells], [float(c) for _, c in cells]


def test_sim_and_wright_2005() -> None:
    """The Kappa Statistic in Reliability Studies, Physical Therapy 85: two clinicians, 22, 2, 4, 11; kappa .67."""
    found = agreement(*_labels([[22, 2], [4, 11]]))
    assert found.kappa == pytest.approx(0.67, abs=0.005)
    assert found.agreed == pytest.approx(33 / 39)
    assert found.table == ((22, 2), (4, 11))
    assert found.ci is not None
    assert found.ci[0] < 0.43 + 0.005  # published: .43 to .91; this is not narrower
    assert found.ci[1] > 0.9


def test_weights_by_hand() -> None:
    """Fleiss 1981, chapter 13: observed distance 15, expected by chance 54."""
    found = agreement(*_labels([[75, 1, 4], [5, 4, 1], [0, 0, 10]]))
    assert found.kappa == pytest.approx(1 - 15 / 54)
    assert found.agreed == pytest.approx(0.89)


def test_near_miss_lowers_kappa_less_than_a_far_miss() -> None:
    people = [1.0, 2.0, 3.0, 4.0, 5.0] * 10
    near, far = [*people[:-1], 4.0], [*people[:-1], 1.0]
    kappas = [agreement(people, judge).kappa for judge in (people, near, far)]
    assert kappas[0] == 1.0
    assert kappas == sorted(kappas, key=lambda kappa: -(kappa or 0.0))
    assert len(set(kappas)) == 3


def test_full_agreement_on_few_labels_has_a_wide_interval() -> None:
    few, many = (agreement([0.0, 1.0] * n, [0.0, 1.0] * n).ci for n in (3, 100))
    assert few is not None
    assert many is not None
    assert few[0] < 0.3
    assert many[0] > 0.9


def test_full_disagreement_has_kappa_minus_one() -> None:
    found = agreement([0.0, 1.0] * 4, [1.0, 0.0] * 4)
    assert found.kappa == -1.0
    assert found.ci is not None
    assert found.ci[0] == -1.0
    assert -1.0 < found.ci[1] < 0.5


def test_one_label_only_has_no_kappa() -> None:
    found = agreement([1.0, 1.0], [1.0, 0.0])
    assert (found.kappa, found.ci, found.agreed) == (None, None, 0.5)
    with pytest.raises(ValueError, match="no labels"):
        agreement([], [])


@pytest.mark.parametrize(("n", "same"), [(20, 0.9), (20, 0.98), (50, 0.9), (200, 0.7)])
def test_interval_coverage(n: int, same: float) -> None:
    """The interval contains the true kappa in at least 93 % of random tables."""
    numbers = np.random.default_rng(n)
    inside = []
    for _ in range(400):
        people = numbers.integers(0, 2, n)
        judge = np.where(numbers.random(n) < same, people, 1 - people)
        found = agreement([float(x) for x in people], [float(x) for x in judge])
        if found.ci is not None:
            inside.append(found.ci[0] <= 2 * same - 1 <= found.ci[1])
    assert len(inside) > 390
    assert np.mean(inside) > 0.93


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=40))
@example([(2, 4), (4, 5)])
def test_kappa_and_interval_are_in_range(pairs: list[tuple[int, int]]) -> None:
    found = agreement([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    assert 0 <= found.agreed <= 1
    assert sum(map(sum, found.table)) == len(pairs)
    if found.kappa is not None:
        assert found.ci is not None
        assert -1 - 1e-9 <= found.kappa <= 1
        assert found.ci[0] - 1e-9 <= found.kappa <= found.ci[1] + 1e-9
        assert not math.isnan(found.kappa)
