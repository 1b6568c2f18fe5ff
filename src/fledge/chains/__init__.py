"""LangChain: engines as LLM and chat models, and `prompt | llm | parser` chains, in `engine_llm.py`."""
