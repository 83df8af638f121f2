"""The grammar beside free generation and beside transformers' own way to allow ids, by token, and 1,000
sequences of an untrained model: `python tests/bench/bench_grammar.py`. Exits 1 when a floor is missed.
"""

import sys
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import torch  # noqa: E402
from timing import ratio, report  # noqa: E402
from transformers import LogitsProcessorList  # noqa: E402

from uti.audit.samples import load_samples  # noqa: E402
from uti.config import SMOKE_CONFIG, load_config  # noqa: E402
from uti.lm.data import make_dataset  # noqa: E402
from uti.lm.generate import GrammarProcessor, decode_segment, generate, outcome, prompt_of  # noqa: E402
from uti.lm.model import make_model, new_model  # noqa: E402
from uti.space import TokenSpace  # noqa: E402
from uti.tokens.grammar import Grammar  # noqa: E402
from uti.tokens.tokenizer import UnifiedTokenizer  # noqa: E402

OVERHEAD_FLOOR, TOKENS = 1.05, 96
SPACE = TokenSpace(text=4096, image=(65536,), audio=(1024,) * 8)  # that of the embedded codecs
IMAGES = Grammar(SPACE, "interleaved", {"image": [TOKENS - 2]})  # so that both write as many tokens


def overheads() -> list[tuple[str, float, str, float]]:
    "Time of `generate` under the grammar, and under transformers' own, over that of `generate` alone."
    model, rows = new_model(SPACE, hidden_size=64, layers=2).eval(), []
    some = list(range(SPACE.ranges["AUDIO_CB0"].start, SPACE.ranges["AUDIO_CB0"].stop))
    for batch in (1, 8):
        prompt = torch.full((batch, 1), SPACE.special["<|gen_img|>"])

        def write(prompt: torch.Tensor = prompt, **how) -> None:
            model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=TOKENS, do_sample=True,
                top_k=0, pad_token_id=SPACE.special["<|pad_mm|>"], **how
            )  # fmt: skip

        def bound(write=write) -> None:
            write(logits_processor=LogitsProcessorList([GrammarProcessor(IMAGES)]))

        theirs = {"prefix_allowed_tokens_fn": lambda batch, ids: some}
        rows += [
            (f"batch {batch}: under the grammar, over free", ratio(bound, write, 15), "<=", OVERHEAD_FLOOR),
            (
                f"batch {batch}: under prefix_allowed_tokens_fn with 1,024 ids, over free",
                ratio(lambda write=write, theirs=theirs: write(**theirs), write, 5), ">=", 0.0,
            ),
        ]  # fmt: skip
    return rows


def thousand() -> int:
    """Generate 1,000 sequences under the grammar, at three temperatures in batches, decode each, and count
    those that are well-formed without it. Returns 1 where one under the grammar does not decode.
    """
    config = load_config(SMOKE_CONFIG)
    tokenizer = UnifiedTokenizer.from_config(config)
    longest = {"text_tokens": config.smoke.text_tokens, "audio_positions": config.smoke.audio_positions}
    data = make_dataset(tokenizer, load_samples(None, list(tokenizer.codecs)), 256, **longest)
    model, grammar = make_model(config.smoke, data.space).eval(), data.grammar
    prompts = [prompt_of(data.examples[i % len(data.examples)]) for i in range(334)]
    found = {
        f"temperature {t}": generate(model, grammar, prompts, temperature=t, batch_size=64)
        for t in (0.01, 1.0, 100.0)
    }
    free = generate(model, grammar, prompts, constrained=False, batch_size=64)
    print()
    whole = 0
    for how, sequences in found.items():
        outcomes = [outcome(grammar, ids) for ids in sequences]
        decoded = sum(decode_segment(tokenizer, o.target) is not None for o in outcomes if not o.error)
        whole += decoded
        well = sum(not o.error for o in outcomes)
        print(f"{how}: {len(sequences)} sequences, {well} well-formed, {decoded} decoded")
    ended = sum(not outcome(grammar, ids).error for ids in free)
    print(f"without the grammar: {len(free)} sequences, {ended} well-formed")
    print(f"under it {whole:,} of {3 * len(prompts):,} decoded")
    return int(whole != 3 * len(prompts))


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        return max(report(overheads()), thousand())


if __name__ == "__main__":
    sys.exit(main())
