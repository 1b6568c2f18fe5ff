from fledge.comparison.topics import fewest_signs, warn_few_topics


def test_fewest_signs() -> None:
    assert fewest_signs(0.05) == 6  # 2 of 2**5 is 6 %, 2 of 2**6 is 3 %
    assert fewest_signs(0.05 / 4) == 8
    assert fewest_signs(0.01) == 8  # 2 of 2**8 is 0.8 %


def test_few_topics_give_a_warning() -> None:
    topics = ["a", "b", "c", "d"] * 5
    assert warn_few_topics(topics, arms=2, alpha=0.05).startswith(
        "4 topics are too few to show any difference (at least 6 are needed)"
    )
    assert warn_few_topics([*topics, *"ef"], arms=2, alpha=0.05) == ""
    assert warn_few_topics(["a", "b"] * 5, arms=2, alpha=0.05).startswith("2 topics are too few")
    assert warn_few_topics(["a", "b", ""] + ["b"] * 5, arms=2, alpha=0.05).startswith("3 topics are too few")
    assert warn_few_topics([*topics, *"efg"], arms=5, alpha=0.05).startswith("7 topics are too few")


def test_topics_without_clusters_give_no_warning() -> None:
    assert warn_few_topics(["a", "b", "c"], arms=2, alpha=0.05) == ""
    assert warn_few_topics(["a"] * 9, arms=2, alpha=0.05) == ""
    assert warn_few_topics(["a", "b"] * 9, arms=1, alpha=0.05) == ""  # nothing to compare
    assert warn_few_topics([""] * 9, arms=2, alpha=0.05) == ""
    assert warn_few_topics(["a", "a", *[""] * 9], arms=2, alpha=0.05) == ""  # each question without a topic is a topic
