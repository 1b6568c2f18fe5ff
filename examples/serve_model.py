"""Serve a champion over HTTP, query it with MLflow's protocol and OpenAI's, and stop it.

    python examples/serve_model.py ["What is machine learning?"] [--model M] [--port 5001]

If MODEL_NAME has no champion yet, the example registers MODEL and promotes it by force, with the reason recorded.
"""

import argparse
import os
from collections.abc import Iterator

import httpx
import openai
from openai.types.chat import ChatCompletionUserMessageParam

import fledge

KEY = os.environ.get("FLEDGE_API_KEY", "none")  # required by `fledge serve` if set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", default="What is machine learning?")
    parser.add_argument("--model", help="embedded, a folder, or a Hub id such as microsoft/DialoGPT-small")
    parser.add_argument("--port", type=int, help="port to listen on")
    given = vars(parser.parse_args())
    question = given.pop("question")

    target = champion(fledge.ExperimentConfig.load({"model": given.pop("model")}))
    config: fledge.ServeConfig = fledge.ServeConfig.load(given)
    endpoint = fledge.serve(target, config=config)
    print(f"{target} is ready on {endpoint.url} after {endpoint.ready_seconds:.1f} s")
    try:
        print(f"invocations: {ask_invocations(endpoint.url, question)}")
        print("chat:", end="")
        for piece in ask_chat(endpoint.url, question, target):
            print(piece, end="", flush=True)
        print()
    finally:
        fledge.stop(config.port, workspace=config)
    print("stopped; MLflow has a trace of each answer")


def champion(config: fledge.ExperimentConfig) -> str:
    """Return the name of the release to serve; register and promote one if there is none."""
    name = fledge.ReleaseConfig().name_for(config.model)
    target = f"{name}@champion"
    try:
        fledge.verify(target, workspace=config)
    except fledge.InputError:  # there is no such release
        release = fledge.register(config, name=name)
        fledge.promote(
            name, release.version, force=True, reason="first release, served by an example", workspace=config
        )
        print(f"registered and promoted {name}/{release.version}")
    return target


def ask_invocations(url: str, question: str) -> str:
    """Return the answer from MLflow's scoring protocol: a table row, filled into the release's prompt."""
    table = {"columns": ["question"], "data": [[question]]}
    headers = {"authorization": f"Bearer {KEY}"}
    response = httpx.post(f"{url}/invocations", json={"dataframe_split": table}, headers=headers, timeout=60)
    response.raise_for_status()
    return str(response.json()["predictions"][0])


def ask_chat(url: str, question: str, model: str) -> Iterator[str]:
    """Yield the pieces of the answer from OpenAI's protocol."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    asked: ChatCompletionUserMessageParam = {"role": "user", "content": question}
    for event in client.chat.completions.create(model=model, messages=[asked], stream=True):
        yield event.choices[0].delta.content or ""


if __name__ == "__main__":
    main()
