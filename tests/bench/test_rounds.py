import pytest

from fledge.bench.rounds import Round, RoundPlan, summarize


def test_loads_alternate_and_prompts_are_unique() -> None:
    rounds = list(RoundPlan((1, 3), repeats=2, prompt_tokens=5, tokens=8, vocabulary=100).rounds())
    assert [load for load, _ in rounds] == [1, 3, 1, 3]
    prompts = [tuple(prompt) for _, group in rounds for prompt in group]
    assert len(set(prompts)) == len(prompts) == 8
    assert all(len(prompt) == 5 and 0 < min(prompt) <= max(prompt) < 100 for prompt in prompts)


def test_summarize_computes_medians_over_rounds() -> None:
    one = Round(2, [[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]])
    other = Round(2, [[0.5, 1.0, 1.5], [0.5, 1.0, 2.0]])
    result = summarize([one, other])
    assert result.output_tokens_per_s == pytest.approx((6 / 4 + 6 / 2) / 2)
    assert result.requests_per_s == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert result.ttft_p50_s == 0.75
    assert result.latency_p50_s == 2.5
    assert result.inter_token_p50_s == 1.0
    assert result.inter_token_p99_s <= 2.0
