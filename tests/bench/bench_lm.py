"""A language model on the ids: training through the Trainer beside a bare loop, and the memory that a step on
a whole image takes: `python tests/bench/bench_lm.py`. Exits 1 when a floor is missed.
"""

import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import torch  # noqa: E402
from timing import report  # noqa: E402

from uti.audit.samples import ASSETS  # noqa: E402
from uti.config import SMOKE_CONFIG, load_config  # noqa: E402
from uti.lm.data import Dataset  # noqa: E402
from uti.lm.model import losses_only, make_model, row_inputs  # noqa: E402
from uti.lm.smoke import prepare_smoke  # noqa: E402
from uti.lm.train import PackedRows, train  # noqa: E402
from uti.tokens.sequences import build, pack  # noqa: E402
from uti.tokens.tokenizer import UnifiedTokenizer  # noqa: E402

TRAINING_FLOOR, MEMORY_CEILING, ROUNDS = 0.95, 1.0, 7


def bare(data: Dataset) -> float:
    "Tokens a CPU-second of the same model, rows, loss and optimiser in a loop of plain PyTorch."
    wanted, ended = data.config.smoke, []
    model = make_model(wanted, data.space)
    optimiser = torch.optim.AdamW(model.parameters(), lr=wanted.learning_rate, weight_decay=0, fused=True)
    packed = PackedRows(data, model)
    rows = [packed[i] for i in range(len(packed))]
    with losses_only(model):
        for step in range(wanted.steps):
            loss = model(**rows[step % len(rows)]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            loss.item()
            ended.append(time.process_time())
    return _rate(data, ended)


def through_the_trainer(data: Dataset) -> float:
    "Tokens a CPU-second of `uti train`, logs included, the checkpoint after the last step not."
    ended: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(data, folder, save_every=10**6, progress=lambda *_: ended.append(time.process_time()))
    return _rate(data, ended)


def _rate(data: Dataset, ended: list[float]) -> float:
    "Of the second time through all rows: each of the two has another order of them, and starts up first."
    half = len(ended) // 2
    return half * data.row_length / (ended[-1] - ended[half - 1])


def memory(own_loss: bool) -> float:
    """GB that a forward and backward on an image of 1,024 positions add to a process that holds the model;
    `own_loss`: with the loss of transformers in place of ours.
    """
    tokenizer = UnifiedTokenizer.from_config()
    space, wanted = tokenizer.space, load_config(SMOKE_CONFIG).smoke
    picture = tokenizer.encode_image(ASSETS / "coffee.png").ids.numpy()
    example = build(space, "t2i", picture, prompt=tokenizer.encode_text("coffee").ids.numpy())
    model = make_model(wanted, space)
    ids, labels = (torch.from_numpy(a[None]) for a in (example.ids, example.labels))
    model(input_ids=ids[:, :4], labels=ids[:, :4]).loss.backward()
    # Linux counts in kB; the peak so far is that of the codecs' work
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if own_loss:
        model(input_ids=ids, labels=labels).loss.backward()
    else:
        with losses_only(model):
            model(**row_inputs(pack(space, [example], len(example.ids)), 0)).loss.backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - now) / 1e9


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if "--memory" in sys.argv:
        print(memory(own_loss=sys.argv[-1] == "own"))
        return 0
    config = load_config(SMOKE_CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        data = prepare_smoke(config, Path(folder) / "run").dataset
    n_rows = len(PackedRows(data, make_model(config.smoke, data.space)))
    short = Dataset(
        data.examples,
        data.grammar,
        config.model_copy(update={"smoke": config.smoke.model_copy(update={"steps": 2 * n_rows})}),
    )
    model = make_model(config.smoke, data.space)
    n = sum(p.numel() for p in model.parameters())
    print(
        f"{type(model).__name__}, {n / 1e6:.1f} million parameters, {data.space.vocab_size_total:,} ids; "
        f"rows of {data.row_length:,} tokens\n"
    )
    pairs = [(through_the_trainer(short), bare(short)) for _ in range(ROUNDS)]
    trainer, loop = (max(rates) for rates in zip(*pairs, strict=True))  # of a noisy machine, its best
    print(f"tokens a CPU-second: {trainer:,.0f} through the Trainer, {loop:,.0f} in a bare loop\n")
    ours, own = (
        float(subprocess.check_output([sys.executable, __file__, "--memory", loss], text=True).split()[-1])
        for loss in ("ours", "own")
    )
    print(f"GB of a step on a whole image: {ours:.2f}; with the loss of transformers {own:.2f}\n")
    rows = [
        ("training: tokens a CPU-second, over a bare loop", trainer / loop, ">=", TRAINING_FLOOR),
        ("training: GB of a step on a whole image", ours, "<=", MEMORY_CEILING),
    ]
    return report(rows, f"best of {ROUNDS} rounds measured in turn, one core")


if __name__ == "__main__":
    sys.exit(main())
