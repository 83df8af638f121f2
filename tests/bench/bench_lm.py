"""A language model on the ids: training through the Trainer beside a bare loop, the grammar beside free
sampling, and 1,000 sequences of an untrained model: `python tests/bench/bench_lm.py`. Exits 1 when a floor is
missed.
"""

import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import torch  # noqa: E402
from timing import ratio, report  # noqa: E402

from uti.audit.samples import load_samples  # noqa: E402
from uti.config import SMOKE_CONFIG, load_config  # noqa: E402
from uti.lm.data import Dataset, make_dataset  # noqa: E402
from uti.lm.generation import decode_segment, generate, outcome, prompt_of  # noqa: E402
from uti.lm.model import make_model, row_inputs  # noqa: E402
from uti.lm.training import train  # noqa: E402
from uti.tokens.sequences import pack  # noqa: E402
from uti.tokens.tokenizer import UnifiedTokenizer  # noqa: E402

TRAINING_FLOOR, GRAMMAR_FLOOR, STEPS, SEQUENCES = 0.9, 1.1, 40, 1000


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
    model = make_model(config.smoke, data.space).eval()
    pictures = [
        prompt_of(e) for e in data.examples[::5][:32]
    ]  # t2i: under the grammar and without it as many tokens, for an untrained model does not end by itself

    def sample(constrained: bool) -> None:
        generate(model, data.grammar, pictures, constrained=constrained)

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
        (
            "generation: time under the grammar, over free",
            ratio(lambda: sample(True), lambda: sample(False), 3),
            "<=",
            GRAMMAR_FLOOR,
        ),
    ]
    missed = report(rows)
    return max(missed, thousand(tokenizer, data, model))


def thousand(tokenizer: UnifiedTokenizer, data: Dataset, model: torch.nn.Module) -> int:
    """Generate `SEQUENCES` with the grammar and without, from an untrained model, and decode.

    Returns 1 where one under the grammar does not decode.
    """
    prompts = [prompt_of(data.examples[i % len(data.examples)]) for i in range(SEQUENCES)]
    bound = [outcome(data.grammar, ids) for ids in generate(model, data.grammar, prompts, batch_size=64)]
    free = [
        outcome(data.grammar, ids)
        for ids in generate(model, data.grammar, prompts, constrained=False, batch_size=64)
    ]
    decoded = sum(decode_segment(tokenizer, o.target) is not None for o in bound if not o.error)
    print(
        f"\nuntrained model, {SEQUENCES:,} sequences: under the grammar {sum(not o.error for o in bound):,} "
        f"well-formed and {decoded:,} decoded; without it {sum(not o.error for o in free):,} well-formed"
    )
    return int(decoded != SEQUENCES)


if __name__ == "__main__":
    sys.exit(main())
