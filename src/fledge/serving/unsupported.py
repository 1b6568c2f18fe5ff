"""Parameters that other servers have and fledge does not. One that would change what the answer means is refused."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fledge.core.errors import InputError

# Parameters that change the answer, and the values with which they ask for nothing.
REFUSED: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "add_generation_prompt": (True,),
        "allowed_token_ids": ([],),
        "audio": (),
        "bad_words": ([],),
        "best_of": (1,),
        "chat_template": ("",),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "documents": ([],),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "grammar": ("",),
        "length_penalty": (1,),
        "logit_bias": ({},),
        "modalities": (["text"],),
        "prompt_logprobs": (0,),
        "skip_special_tokens": (True,),
        "suffix": ("",),
        "truncate_prompt_tokens": (-1,),
        "use_beam_search": (False,),
        "web_search_options": (),
    }
)
# Parameters that never change the answer: bookkeeping, billing and caches of OpenAI.
HARMLESS = frozenset(
    (
        *("include_reasoning", "metadata", "parallel_tool_calls", "prediction", "prompt_cache_key"),
        *("prompt_cache_retention", "request_id", "return_token_ids", "safety_identifier", "service_tier", "store"),
    )
)


class UnsupportedError(InputError):
    """A parameter that cannot be honoured, and without which the answer would mean something else."""

    def __init__(self, param: str, reason: str = "is not supported by this endpoint") -> None:
        super().__init__(f"{param} {reason}", hint=f"leave out {param}")
        self.param = param


def ignored_parameters(extra: Mapping[str, Any]) -> list[str]:
    """Return the unknown parameters that only hint, for the warning header; a null counts as missing.

    Raises `UnsupportedError` for one of `REFUSED` with a value that asks for something.
    """
    ignored = []
    for name, value in extra.items():
        if value is None or name in HARMLESS:
            continue
        if name not in REFUSED:
            ignored.append(name)
        elif not any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in REFUSED[name]):
            raise UnsupportedError(name)
    return ignored
