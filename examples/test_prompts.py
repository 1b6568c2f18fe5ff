"""Try prompts by hand: print each prompt with the question filled in, and the model's answer.

    python examples/test_prompts.py "What is machine learning?"

The default prompts are fledge's four; select others with --prompts. Only the prompts are recorded.
"""

import argparse

import fledge
from fledge.chains.engine_llm import build_chain
from fledge.engines import selection
from fledge.experiments.arms import resolve_format
from fledge.prompts.format import as_asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", default="What is machine learning?")
    parser.add_argument("--prompts", help="name, name/version or name@alias, comma-separated")
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
            chain = build_chain(as_asked(prompt, chat_or_text), engine, config.generation)
            print(f"\n{prompt.label}\n  prompt: {prompt.fill({'question': question})!r}")
            print(f"  answer: {chain.invoke({'question': question})}")
    finally:
        engine.close()


if __name__ == "__main__":
    main()
