"""Try prompts by hand: print each prompt with the question filled in, and the model's answer.

    python examples/test_prompts.py "What is machine learning?"

The default prompts are fledge's four; select others with --prompts. Only the prompts are recorded.
"""

import argparse

import fledge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", default="What is machine learning?")
    parser.add_argument("--prompts", help="name, name/version or name@alias, comma-separated")
    arguments = vars(parser.parse_args())
    question = arguments.pop("question")
    config = fledge.ExperimentConfig.load(arguments)

    prompts = fledge.open_prompts(workspace=config, say=print)
    with fledge.load_model(config=config, say=print) as model:
        for name in config.prompts:
            prompt = prompts.load(name)
            filled = prompt.fill({"question": question})
            print(f"\n{prompt.label}\n  prompt: {filled!r}")
            print(f"  answer: {model.generate(filled)}")


if __name__ == "__main__":
    main()
