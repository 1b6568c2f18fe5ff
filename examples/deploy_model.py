"""Take a model to a champion: evaluate it against a gate, register, verify and promote it with that evidence.

    python examples/deploy_model.py [--model M] [--questions FILE] [--limit N] [--gate "token_f1>=0.5"]

MODEL_NAME, model and store come from fledge's settings; see `fledge config show`. Serve the release with
`fledge serve NAME@champion` or `mlflow models serve -m models:/NAME@champion`.
"""

import argparse

import fledge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="embedded, a folder, or a Hub id such as microsoft/DialoGPT-small")
    parser.add_argument("--questions", help="a .jsonl, .csv or .yaml file")
    parser.add_argument("--limit", type=int, default=60, help="ask at most this many questions")
    parser.add_argument("--gate", default="token_f1>=0.5", help="condition on the confidence interval of a metric")
    given = vars(parser.parse_args())
    gate = given.pop("gate")
    config = fledge.ExperimentConfig.load(given)

    evaluation = fledge.evaluate(config.model, gate, settings=given, say=print)
    print(f"evaluated in run {evaluation.run_id}: {'; '.join(evaluation.summary())}")

    release = fledge.register(config, run_id=evaluation.run_id)
    print(f"registered {release.name} version {release.version}, digest {release.digest[:12]}")
    checked = fledge.verify(release.model_uri, workspace=config)
    print(f"verified {checked.files} files against the manifest")

    move = fledge.promote(release.name, release.version, evidence=evaluation.run_id, say=print, workspace=config)
    print(f"{move.name}@{move.alias}: {move.before or 'none'} -> {move.after}, because it {move.reason}")
    print(f"next: fledge serve {move.name}@{move.alias}")


if __name__ == "__main__":
    main()
