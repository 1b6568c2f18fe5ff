"""Query a registered release with every input format that it accepts.

    python examples/quick_test.py [models:/NAME@champion]

MLflow loads the release like any other model; `predict` does not need fledge, only the release's requirements.
"""

import sys
import time

import mlflow
import pandas as pd

import fledge

QUESTION = "What is machine learning?"


def main() -> None:
    uri = sys.argv[1] if len(sys.argv) > 1 else "models:/huggingface-dialogpt-model@champion"
    mlflow.set_tracking_uri(fledge.ExperimentConfig.load().tracking)
    model = mlflow.pyfunc.load_model(uri)
    forms = {
        "a text": QUESTION,
        "a list": [QUESTION, "What is MLOps?"],
        "a dict": {"question": QUESTION},
        "a table": pd.DataFrame({"question": [QUESTION, "What is overfitting?"]}),
        "messages": {"messages": [{"role": "user", "content": QUESTION}]},
    }
    for name, form in forms.items():
        started = time.perf_counter()
        answers = model.predict(form, params={"max_tokens": 32})
        print(f"{name}, {time.perf_counter() - started:.2f} s")
        for answer in answers:
            print(f"  {answer}")
    print("streamed:", end="", flush=True)
    for piece in model.predict_stream(QUESTION, params={"max_tokens": 32}):
        print(f"|{piece}", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
