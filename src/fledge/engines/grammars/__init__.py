"""Structured outputs: JSON schemas, regular expressions and choices as grammars that an engine enforces token by token.

A grammar is text with rules `name ::= expression` that starts at `root`, in the syntax that xgrammar and llama.cpp
share. Every text of a grammar is valid for its source; some valid texts may be missing, as docs/endpoint.md lists.
Open `json_schema.py` first.
"""
