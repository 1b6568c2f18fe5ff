"""Export a snapshot to OpenVINO: `python -m fledge.models._hf_export SNAPSHOT OUT`. A process of its own, so that torch
never stays in the memory of an engine."""

import sys
import warnings
from pathlib import Path


def export(snapshot: Path, out: Path) -> None:
    """Write the OpenVINO model with fp32 weights and `tokenizer.json` to the folder `out`."""
    warnings.filterwarnings("ignore")
    from optimum.exporters.openvino import main_export
    from transformers import AutoTokenizer

    main_export(
        str(snapshot),
        output=out,
        task="text-generation-with-past",
        convert_tokenizer=False,
        local_files_only=True,
        library_name="transformers",
        model_loading_kwargs={"dtype": "float32", "use_safetensors": True},
    )
    AutoTokenizer.from_pretrained(snapshot, local_files_only=True).save_pretrained(out)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
