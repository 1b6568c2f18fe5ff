"""The prompts of the demo: the question alone, an instruction, and examples.

They were chosen on questions drawn with other seeds (1 and 2) than the demo's.
"""

from fledge.core.types import Message
from fledge.prompts.prompt import Draft

PROMPTS = (
    Draft("question", "{{question}}", message="the question alone"),
    Draft(
        "one-sentence",
        "{{question}}",
        system="Answer in one sentence of at most 25 words.",
        message="with an instruction about the answer",
    ),
    Draft(
        "two-examples",
        (
            Message("user", "What is photosynthesis?"),
            Message(
                "assistant",
                "Photosynthesis is the process by which plants use the energy of light to make sugar from water and "
                "carbon dioxide, giving off oxygen.",
            ),
            Message("user", "Can you explain why large ships float?"),
            Message(
                "assistant",
                "A ship floats because it displaces a weight of water equal to its own, so the water's upward push "
                "balances its weight.",
            ),
            Message("user", "{{question}}"),
        ),
        message="with two examples on other subjects",
    ),
)
