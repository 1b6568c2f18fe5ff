"""Register prompt versions and an alias in MLflow 3, and compare two versions in an experiment.

python examples/mlflow3_native_prompts.py
"""

import mlflow

import fledge

FIRST = "Question: {{question}}\nAnswer:"
SECOND = "You are a patient teacher. Explain it to a student.\nQuestion: {{question}}\nExplanation:"


def main() -> None:
    config = fledge.ExperimentConfig.load({"prompts": "lesson/1,lesson/2", "limit": 6})
    prompts = fledge.open_prompts(say=print, workspace=config)

    first = prompts.register(fledge.Draft("lesson", FIRST, message="plain", tags={"team": "examples"}))
    second = prompts.register(fledge.Draft("lesson", SECOND, message="as a teacher would"))
    prompts.set_alias("lesson", "trial", second.version)
    print(f"registered {first.label} and {second.label}; lesson@trial is {prompts.load('lesson@trial').label}")
    print(f"again, unchanged: {prompts.register(fledge.Draft('lesson', SECOND)).label}")

    # MLflow's own functions load what fledge registers.
    native = mlflow.genai.load_prompt("prompts:/lesson@trial")
    print(f"MLflow fills it in: {native.format(question='What is overfitting?')!r}")

    result = fledge.run_experiment(config, say=print)
    verdict = fledge.compare(result.run_id, options=fledge.CompareOptions(metric="token_f1"), workspace=config)
    for pair in verdict.pairs:
        print(pair.summary())

    traces = mlflow.search_traces(
        locations=[mlflow.get_run(result.run_id).info.experiment_id],
        filter_string=f"prompt = '{second.label}'",
        return_type="list",
    )
    print(f"{len(traces)} traces are linked to {second.label}")


if __name__ == "__main__":
    main()
