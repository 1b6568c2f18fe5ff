import math

import numpy as np
import pandas as pd
import pytest

from fledge.comparison.estimates import estimate
from fledge.scoring.catalogue import range_of


def _table(count: int, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"question": np.arange(count), "arm": "only", **columns})


def test_means_with_intervals() -> None:
    scores = np.random.default_rng(0).normal(0.6, 0.1, 50)
    found = estimate(_table(50, token_f1=scores, ok=[1.0] * 40 + [0.0] * 10))
    assert found["token_f1"].value == pytest.approx(scores.mean())
    assert found["token_f1"].ci[0] < scores.mean() < found["token_f1"].ci[1]
    assert found["ok"].ci == pytest.approx((0.6696, 0.8876), abs=5e-5)  # Wilson's of 40 of 50


def test_samples_of_one_question_are_averaged_first() -> None:
    table = pd.DataFrame({"question": [1, 1, 1, 2], "arm": "only", "ok": [1.0, 1.0, 1.0, 0.0]})
    assert estimate(table)["ok"].value == 0.5
    assert estimate(table)["ok"].questions == 2


def test_topics_widen_an_interval() -> None:
    rng = np.random.default_rng(1)
    topic = np.repeat(np.arange(10), 10)
    table = _table(100, score=rng.normal(0, 1, 10)[topic] + rng.normal(0, 0.2, 100), topic=topic.astype(str))
    low, high = estimate(table)["score"].ci
    flat = estimate(table, by_topic=False)["score"].ci
    assert high - low > 2 * (flat[1] - flat[0])


def test_interval_of_a_rate_with_topics_stays_within_0_and_1() -> None:
    table = _table(40, error_rate=[1.0] + [0.0] * 39, topic=["a", "b"] * 20)
    low, high = estimate(table)["error_rate"].ci
    assert 0 <= low < 1 / 40 < high <= 1
    none = estimate(_table(40, error_rate=0.0, topic=["a", "b"] * 20))["error_rate"]
    assert none.ci[0] == 0.0
    assert none.ci[1] == pytest.approx(0.0876, abs=5e-5)  # Wilson's of 0 of 40: an error rate of 0 is not certain


def test_the_95th_percentile_of_latency() -> None:
    found = estimate(_table(400, latency_s=np.arange(1, 401) / 100.0))["latency_p95_s"]
    assert found.value == pytest.approx(3.80, abs=0.01)
    # Order statistics 371 and 389 contain it, by the binomial distribution of 400 and 0.95.
    assert found.ci == pytest.approx((3.71, 3.89), abs=0.015)
    few = estimate(_table(5, latency_s=[1.0, 2.0, 3.0, 4.0, 5.0]), range_of=range_of)["latency_p95_s"]
    assert few.ci[0] >= 0
    assert few.ci[1] == math.inf


def test_an_interval_stays_within_the_range_of_the_metric() -> None:
    scores = _table(5, token_f1=[0.1, 0.42, np.nan, np.nan, np.nan])
    assert estimate(scores, range_of=range_of)["token_f1"].ci == (0.0, 1.0)
    assert estimate(scores)["token_f1"].ci[0] < 0
    one = _table(1, token_f1=[0.5], latency_s=[2.0])
    assert estimate(one, range_of=range_of)["token_f1"].ci == (0.0, 1.0)
    assert estimate(one, range_of=range_of)["latency_s"].ci == (0.0, math.inf)


def test_metrics_without_a_value_are_left_out() -> None:
    found = estimate(_table(3, token_f1=[0.1, np.nan, np.inf], none=[np.nan] * 3))
    assert set(found) == {"token_f1"}
    assert found["token_f1"].ci == (-math.inf, math.inf)
