"""OpenVINO's tokenizer of an exported model, whose vocabulary its grammars need."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

TOKENIZER, DETOKENIZER = "openvino_tokenizer.xml", "openvino_detokenizer.xml"


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in the folder of an exported model."""
    parts: list[Any] = []
    for name in (TOKENIZER, DETOKENIZER):
        weights = np.fromfile((folder / name).with_suffix(".bin"), dtype=np.uint8)
        parts += [(folder / name).read_text(encoding="utf-8"), openvino.Tensor(weights)]
    return openvino_genai.Tokenizer(*parts)
