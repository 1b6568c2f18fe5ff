"""LangChain: an engine as an LLM and chat model, and prompt | llm | parser, in `engine_llm.py`."""
