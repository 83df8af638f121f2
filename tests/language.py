"""A small dataset of random ids, for tests of what trains on it: no codec is loaded."""

import numpy as np

from uti.config import parse_config
from uti.lm.data import Dataset
from uti.space import TokenSpace
from uti.tokens.grammar import Grammar
from uti.tokens.sequences import build

SPACE = TokenSpace(text=100, image=(50,), audio=(10, 10))
GRAMMAR = Grammar(SPACE, "interleaved", {"text": range(0, 13), "image": [9], "audio": range(1, 7)})


def language(
    n: int = 40,
    space: TokenSpace = SPACE,
    grammar: Grammar = GRAMMAR,
    tasks: tuple[str, ...] = ("t2i",),
    **smoke,
) -> Dataset:
    "`n` sequences of texts and images, all `tasks` in turn; `smoke`: settings of the model and the run."
    generator, image, examples = np.random.default_rng(0), space.ranges["IMAGE"], []
    for i in range(n):
        picture = generator.integers(image.start, image.stop, 9)
        text = generator.integers(0, space.text, int(generator.integers(1, 12)))
        target, prompt = (picture, text) if tasks[i % len(tasks)] == "t2i" else (text, picture)
        examples.append(build(space, tasks[i % len(tasks)], target, prompt=prompt))
    wanted = {"steps": 12, "row_length": 64, **smoke}
    return Dataset(examples, grammar, parse_config({"text": "embedded-text", "smoke": wanted}))
