"""Try prompts by hand: what each of them makes of a question, and what the model answers.

    python examples/test_prompts.py "What is machine learning?"

The prompts are fledge's four, or those named with --prompts; nothing is recorded but the prompts themselves.
"""

import argparse

import fledge
from fledge.chains.engine_llm import build_chain
from fledge.engines import selection
from fledge.experiments.arms import resolve_format
from fledge.prompts.format import apply_format


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", default="What is machine learning?")
    parser.add_argument("--prompts", help="as name, name/version or name@alias, with commas between")
    arguments = vars(parser.parse_args())
    question = arguments.pop("question")
    config = fledge.ExperimentConfig.load(arguments)

    prompts = fledge.open_prompts(config, say=print)
    model = selection.find(config.model, config)
    engine = selection.start(config, model, print)
    try:
        for name in config.prompts:
            prompt = prompts.load(name)
            chat_or_text = resolve_format(prompt, model, config.format)
            chain = build_chain(apply_format(prompt, chat_or_text), engine, config.generation)
            print(f"\n{prompt.label}\n  prompt: {prompt.fill({'question': question})!r}")
            print(f"  answer: {chain.invoke({'question': question})}")
    finally:
        engine.close()


if __name__ == "__main__":
    main()
