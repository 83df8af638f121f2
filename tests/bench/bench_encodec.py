"""EnCodec at 48 kHz through UTI beside the bare model, at the published size with random weights: `python
tests/bench/bench_encodec.py`. Exits 1 when a floor is missed.
"""

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import torch  # noqa: E402
import transformers  # noqa: E402
from checkpoints import STEREO, liven  # noqa: E402
from timing import ratio, report  # noqa: E402

from uti.tokens.tokenizer import UnifiedTokenizer  # noqa: E402
from uti.zoo.hf.audio import HFAudio  # noqa: E402
from uti.zoo.hf.encodec import padded_length  # noqa: E402

OVERHEAD_FLOOR, GAIN_FLOOR = 1.03, 0.95
RATE, SECONDS, BANDWIDTH = 48_000, 10, 24.0


def checkpoint(folder: str) -> Path:
    """A checkpoint with the config of facebook/encodec_48khz; its weights are random, which costs the same
    time.
    """
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        **STEREO, sampling_rate=RATE, target_bandwidths=[3.0, 6.0, 12.0, 24.0]
    )
    liven(transformers.EncodecModel(config).eval()).save_pretrained(folder)
    return Path(folder)


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        codec = HFAudio(checkpoint(folder))
    model, tokenizer = codec.loaded.module, UnifiedTokenizer({"audio": codec})
    waves = 0.2 * torch.randn(8, 2, SECONDS * RATE, generator=torch.Generator().manual_seed(0)).clamp(-4, 4)

    extra = padded_length(model.config, waves.shape[-1]) - waves.shape[-1]
    prepared = torch.nn.functional.pad(waves, (0, extra))  # as its feature extractor gives it to the model

    def bare(n: int) -> torch.Tensor:
        with torch.inference_mode():
            return model.encode(prepared[:n], bandwidth=BANDWIDTH).audio_codes

    n = sum(p.numel() for p in model.parameters())
    print(
        f"EnCodec, 48 kHz stereo, {n / 1e6:.1f} million parameters, {codec.spec.n_codebooks} codebooks; "
        f"{SECONDS} s of audio\n"
    )
    rows = [
        (
            "encode through the codec, over the bare model",
            ratio(lambda: codec.encode(waves[:1]), lambda: bare(1), 9),
            "<=",
            OVERHEAD_FLOOR,
        ),
        (
            "encode through UnifiedTokenizer, over the bare model",
            ratio(lambda: tokenizer.encode_audio(waves[0], RATE), lambda: bare(1), 9),
            "<=",
            OVERHEAD_FLOOR,
        ),
    ]
    gain = 8 / ratio(lambda: codec.encode(waves), lambda: codec.encode(waves[:1]), 3)
    bare_gain = 8 / ratio(lambda: bare(8), lambda: bare(1), 3)
    rows += [
        ("throughput of a batch of 8, over a batch of 1", gain, ">=", 0.0),
        ("that gain, over the bare model's", gain / bare_gain, ">=", GAIN_FLOOR),
    ]
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
