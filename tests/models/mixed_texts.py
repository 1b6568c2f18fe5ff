"""Texts for testing tokenizers: prose, code, scripts, emoji, digits, white space, special tokens."""

import random
from collections.abc import Sequence

from fledge.models.embedded.corpus import load_corpus

SCRIPTS = (
    *((0x41, 0x7A), (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x600, 0x6FF), (0x900, 0x97F)),
    *((0xE00, 0xE7F), (0x1E00, 0x1EFF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3)),
    *((0x1F300, 0x1F9FF), (0x20, 0x7E), (0x00, 0x1F), (0x80, 0x9F), (0x2000, 0x206F), (0x2150, 0x218F)),
    *((0x660, 0x669), (0x1D7CE, 0x1D7FF), (0x300, 0x36F), (0xE000, 0xE0FF), (0xFFF0, 0xFFFF), (0x10000, 0x10FFFF)),
)
SPACES = (
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x0b",
    "\x0c",
    "\x85",
    "\ufeff",
    "\u200d",
)
PHRASES = (
    *(
        "it's",
        "I'LL",
        "don't",
        "we'Ve",
        " the",
        "  Hello world",
        "3.14159",
        "1,000,000",
        "e=mc²",
        "½",
        "👩‍👩‍👧‍👦",
        "🇫🇷",
        "e\u0301",
    ),
    *("def f(x):\n    return x**2  # square\n", "for (int i = 0; i < 10; i++) {\n\t a[i] += 1;\n}", "SELECT * FROM t;"),
    *(
        '{"a": [1, 2.5, null]}',
        "<p class='x'>&amp;</p>",
        "https://example.org/?q=1&r=2#s",
        "C:\\Users\\me",
        "$x_{i}^{2}$",
    ),
)


def mixed_texts(count: int, special: Sequence[str]) -> list[str]:
    """Return `count` texts, always the same; `special` are spellings of special tokens."""
    rng = random.Random(0)
    prose = [entry.answer for entry in load_corpus()]
    found = ["", " ", "\n", "a", "0", *special]
    while len(found) < count:
        found.append("".join(_piece(rng, prose, special) for _ in range(rng.randint(1, 6))))
    return found[:count]


def _piece(rng: random.Random, prose: Sequence[str], special: Sequence[str]) -> str:
    kind = rng.random()
    if kind < 0.35:
        low, high = rng.choice(SCRIPTS)
        letters = (chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8)))
        return "".join(letter for letter in letters if not 0xD800 <= ord(letter) <= 0xDFFF)
    if kind < 0.5:
        return rng.choice(SPACES) * rng.randint(1, 3)
    if kind < 0.6:
        return str(rng.randint(0, 10 ** rng.randint(1, 9)))
    if kind < 0.8:
        return rng.choice(PHRASES)
    if kind < 0.92:
        return rng.choice(prose)[: rng.randint(1, 300)]
    text = rng.choice(special)
    return text if rng.random() < 0.7 else text[:-1]
