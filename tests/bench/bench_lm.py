"""A language model on the ids: training through the Trainer beside a bare loop: `python
tests/bench/bench_lm.py`. Exits 1 when a floor is missed.
"""

import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import torch  # noqa: E402
from timing import report  # noqa: E402

from uti.audit.samples import load_samples  # noqa: E402
from uti.config import SMOKE_CONFIG, load_config  # noqa: E402
from uti.lm.data import Dataset, make_dataset  # noqa: E402
from uti.lm.model import make_model, row_inputs  # noqa: E402
from uti.lm.training import train  # noqa: E402
from uti.tokens.sequences import pack  # noqa: E402
from uti.tokens.tokenizer import UnifiedTokenizer  # noqa: E402

TRAINING_FLOOR, STEPS = 0.9, 40


def bare(data: Dataset) -> float:
    """Tokens a second of the same model, rows and optimiser in a loop of plain PyTorch: forward, backward,
    clip, step. The first step, which warms up, is not counted.
    """
    wanted, ended = data.config.smoke, []
    model = make_model(wanted, data.space)
    optimiser = torch.optim.AdamW(model.parameters(), lr=wanted.learning_rate, weight_decay=0, fused=True)
    rows = pack(data.space, data.examples, wanted.row_length)
    for step in range(wanted.steps):
        inputs = row_inputs(rows, step % len(rows.ids))
        labels = inputs.pop("labels")[0]
        loss = torch.nn.functional.cross_entropy(model(**inputs).logits[0].float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        loss.item()
        ended.append(time.perf_counter())
    return _rate(data, ended)


def through_the_trainer(data: Dataset) -> float:
    "Tokens a second of `uti train`, logs included, the checkpoint after the last step not."
    ended: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            data,
            folder,
            save_every=10**6,
            progress=lambda step, steps, what: ended.append(time.perf_counter()),
        )
    return _rate(data, ended)


def _rate(data: Dataset, ended: list[float]) -> float:
    return (len(ended) - 1) * data.config.smoke.row_length / (ended[-1] - ended[0])


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    config = load_config(SMOKE_CONFIG)
    tokenizer = UnifiedTokenizer.from_config(config)
    data = make_dataset(
        tokenizer,
        load_samples(None, list(tokenizer.codecs)),
        256,
        text_tokens=config.smoke.text_tokens,
        audio_positions=config.smoke.audio_positions,
    )
    short = Dataset(
        data.examples,
        data.grammar,
        config.model_copy(update={"smoke": config.smoke.model_copy(update={"steps": STEPS})}),
    )
    model = make_model(config.smoke, data.space)
    n = sum(p.numel() for p in model.parameters())
    print(
        f"{type(model).__name__}, {n / 1e6:.1f} million parameters, {data.space.vocab_size_total:,} ids; "
        f"rows of {config.smoke.row_length} tokens\n"
    )
    pairs = [(through_the_trainer(short), bare(short)) for _ in range(5)]
    print(
        f"tokens a second: {statistics.median(a for a, _ in pairs):,.0f} through the Trainer, "
        f"{statistics.median(b for _, b in pairs):,.0f} in a bare loop\n"
    )
    rows = [
        (
            "training: tokens a second, over a bare loop",
            statistics.median(a / b for a, b in pairs),
            ">=",
            TRAINING_FLOOR,
        ),
    ]
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
