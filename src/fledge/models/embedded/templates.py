"""Prompt templates that the embedded model was trained on; `fledge.prompts` registers them as defaults."""

from typing import Final

TEMPLATES: Final[dict[str, str]] = {
    "simple": "Question: {{question}}\nAnswer:",
    "conversational": "Human: {{question}}\nAssistant:",
    "expert": "You are an expert in machine learning. Answer precisely.\nQuestion: {{question}}\nExpert answer:",
    "educational": "You are a patient teacher. Explain it to a student.\nQuestion: {{question}}\nExplanation:",
}
