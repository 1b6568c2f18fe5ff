"""Run an experiment on a Hugging Face model: ask every question with every prompt, then compare the prompts.

    python examples/mlflow_huggingface_experiment.py [--model M] [--questions FILE] [--limit N]

MODEL, prompts and store come from fledge's settings; see `fledge config show`.
"""

import argparse

import fledge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="embedded, a folder, a Hub id such as microsoft/DialoGPT-small, or a URL")
    parser.add_argument("--questions", help="a .jsonl, .csv or .yaml file")
    parser.add_argument("--limit", type=int, default=12, help="ask at most this many questions")
    config = fledge.ExperimentConfig.load(vars(parser.parse_args()))

    result = fledge.run_experiment(config, say=print)
    print(f"run {result.run_id}: {result.cells} answers, {result.failed} failed")
    for arm in result.arms:
        figures = ", ".join(f"{name} {arm.metrics[name]:.3f}" for name in ("effectiveness", "latency_mean_s"))
        print(f"  {arm.name} ({arm.prompt}): {figures}")

    verdict = fledge.compare(result.run_id, options=fledge.CompareOptions(metric="response_quality"), workspace=config)
    for pair in verdict.pairs:
        print(f"  {pair.summary()}")


if __name__ == "__main__":
    main()
