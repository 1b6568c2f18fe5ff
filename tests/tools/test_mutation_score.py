from tests.tools import load_tool

RESULTS = """
    fledge.comparison.power.x_plan__mutmut_1: killed
    fledge.comparison.power.x_plan__mutmut_2: survived
    fledge.comparison.tails.x__units__mutmut_1: timeout
    fledge.serving.routing.xǁRoutesǁnames__mutmut_1: no tests
    fledge.rollout.canary.x_decide__mutmut_1: not checked
"""


def test_killed_and_endless_mutants_are_detected() -> None:
    assert load_tool("mutation_score").scores(RESULTS.splitlines()) == {"comparison": (2, 3), "serving": (0, 1)}
