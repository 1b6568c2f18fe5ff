"""The questions that an experiment asks."""

from fledge.core.types import Say, silent
from fledge.experiments.config import ExperimentConfig
from fledge.questions.question_set import QuestionSet
from fledge.questions.sources import read_questions


def select_questions(config: ExperimentConfig, given: QuestionSet | None = None, say: Say = silent) -> QuestionSet:
    """The questions given, or those that a configuration means: of fledge's own the held-out ones; at most `limit`."""
    if given is not None:
        questions = given
    else:
        questions = read_questions(config.questions, layout=config.layout, workspace=config, say=say)
        if config.questions == "default":
            questions = questions.only("test")
    return questions.sample(config.limit, config.order_seed) if config.limit else questions
