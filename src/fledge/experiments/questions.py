"""The questions of an experiment."""

from fledge.core.types import Say, silent
from fledge.experiments.config import ExperimentConfig
from fledge.questions.question_set import QuestionSet
from fledge.questions.sources import read_questions


def select_questions(config: ExperimentConfig, given: QuestionSet | None = None, say: Say = silent) -> QuestionSet:
    """Return the given or configured questions, at most `limit`; of the embedded set, only held-out ones."""
    if given is not None:
        questions = given
    else:
        questions = read_questions(config.questions, layout=config.layout, workspace=config, say=say)
        if config.questions == "default":
            questions = questions.only("test")
    return questions.sample(config.limit, config.order_seed) if config.limit else questions
