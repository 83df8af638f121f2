"""SNAC's levels as slots of a coarse frame: the library's codes, Orpheus' order, and what cannot be right."""

import json

import pytest
import torch
from snac import SNAC

from uti.codecs.base import CodecError
from uti.codecs.checkpoints import load_codec, modality_of
from uti.testing import check_codec
from uti.tokens.tokenizer import UnifiedTokenizer
from uti.zoo.snac import Snac

SMALL = {
    "sampling_rate": 24_000, "encoder_dim": 8, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 64,
    "decoder_rates": [8, 8, 4, 2], "attn_window_size": None, "codebook_size": 4096, "codebook_dim": 8,
    "vq_strides": [4, 2, 1], "noise": True, "depthwise": True,
}  # fmt: skip
# as SNAC at 32 and 44.1 kHz: four levels and attention, whose window decides to what audio is padded
LARGER = SMALL | {"vq_strides": [8, 4, 2, 1], "attn_window_size": 32, "encoder_dim": 16, "decoder_dim": 128}
FRAME = 2048  # samples of a coarse frame of both


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Each config → a folder with random weights, as the library reads it."
    made = {}
    for name, config in {"small": SMALL, "larger": LARGER}.items():
        made[name] = tmp_path_factory.mktemp("snac") / name
        made[name].mkdir()
        torch.manual_seed(0)
        model = SNAC(**config)
        for level in model.quantizer.quantizers:
            level.codebook.weight.data.normal_()
        (made[name] / "config.json").write_text(json.dumps(config))
        torch.save(model.state_dict(), made[name] / "pytorch_model.bin")
    return made


def sounds(*lengths):
    generator = torch.Generator().manual_seed(1)
    return [(0.3 * torch.randn(1, n, generator=generator)).clamp(-1, 1) for n in lengths]


@pytest.mark.parametrize("name", ["small", "larger"])
def test_the_codes_are_the_librarys_alone_and_in_a_batch(name, folders):
    codec, model = Snac(folders[name]), SNAC.from_pretrained(str(folders[name]))
    waves = sounds(5 * FRAME, 3 * FRAME + 700, FRAME, 1)
    batch = torch.stack([torch.nn.functional.pad(wave, (0, 5 * FRAME - wave.shape[-1])) for wave in waves])
    lengths = torch.tensor([wave.shape[-1] for wave in waves])
    together, metas = codec.encode(batch, lengths)
    for wave, row, meta in zip(waves, together, metas, strict=True):
        with torch.inference_mode():
            levels = model.encode(wave[None])
        n = meta["n_positions"]
        assert n == levels[0].shape[-1] == codec.expected_positions(wave.shape[-1])
        for level, codes in enumerate(levels):
            slots = [k for k, (of, _) in enumerate(codec.slots) if of == level]
            assert torch.equal(row[slots, :n].T.flatten(), codes[0])
        assert torch.equal(codec.encode(wave[None]).codes[0], row[:, :n])
    assert len(together.unique()) > 20


def test_ids_are_in_the_order_of_orpheus_up_to_where_they_begin(folders):
    tokenizer = UnifiedTokenizer(audio=folders["small"])
    (wave,) = sounds(3 * FRAME)
    with torch.inference_mode():
        coarse, middle, fine = (
            codes[0].tolist() for codes in SNAC.from_pretrained(str(folders["small"])).encode(wave[None])
        )
    expected = [
        code + slot * 4096
        for i in range(3)
        for slot, code in enumerate((
            coarse[i], middle[2 * i], fine[4 * i], fine[4 * i + 1],
            middle[2 * i + 1], fine[4 * i + 2], fine[4 * i + 3],
        ))
    ]  # fmt: skip
    start = tokenizer.space.modality_ranges("audio")[0].start
    assert (tokenizer.encode_audio(wave, 24_000).ids - start).tolist() == expected


def test_a_sound_decodes_as_the_librarys_with_the_noise_of_one_seed(folders):
    codec, model = Snac(folders["small"]), SNAC.from_pretrained(str(folders["small"]))
    waves = sounds(2 * FRAME, 2 * FRAME - 300)
    items = [codec.encode(wave[None]) for wave in waves]
    state = torch.get_rng_state()
    together = codec.decode(torch.cat([codes for codes, _ in items]), [meta[0] for _, meta in items])
    assert torch.equal(torch.get_rng_state(), state)
    for wave, decoded in zip(waves, together, strict=True):
        with torch.inference_mode():
            levels = model.encode(wave[None])
            torch.manual_seed(0)
            theirs = model.decode(levels)[0].clamp(-1, 1)
        assert torch.equal(decoded[:, : wave.shape[-1]], theirs[:, : wave.shape[-1]])


def test_it_is_found_by_its_folder(folders):
    assert modality_of(str(folders["small"])) == "audio" and isinstance(load_codec(folders["small"]), Snac)
    assert not Snac.recognises(folders["small"].parent)


@pytest.mark.slow  # the contract is asked of one family of checkpoints for each kind
def test_it_keeps_the_contract(folders):
    answers = {answer.name: answer for answer in check_codec(Snac(folders["small"]))}
    assert answers["weights"].passed and answers["weights"].found > 100


@pytest.mark.slow  # a whole audit, of what the contract asks as well
def test_it_is_audited_by_its_folder(folders, uti_here, small):
    run = uti_here("audit", "--audio", folders["larger"], "--smoke-assets", small)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vq_strides": [4, 3]}, "each of vq_strides must divide the one before it"),
        ({"vq_strides": "4"}, "vq_strides must be a list of whole numbers"),
        ({"vq_strides": []}, "vq_strides must be a list of whole numbers"),
        ({"encoder_rates": [2, 4, 8]}, "make other numbers of samples a code"),
        ({"encoder_rates": [10**6]}, "encoder_rates must be a list of whole numbers"),
        ({"codebook_size": 10**9}, "codebook_size must be a whole number up to"),
        ({"codebook_size": 4095}, "weights do not fit the config: quantizer"),
        ({"sampling_rate": 0}, "sampling_rate must be a whole number up to"),
        ({"encoder_dim": 10**6}, "encoder_dim must be a whole number up to"),
        ({"encoder_dim": 256}, "its config asks for a far larger model than its weights are"),
        ({"colour": "red"}, "its config makes no SNAC"),
        ({"attn_window_size": 7}, "weights are missing|makes no SNAC"),
    ],
)
def test_a_config_at_fault_is_one_sentence(change, said, folders, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL | change))
    (tmp_path / "pytorch_model.bin").symlink_to(folders["small"] / "pytorch_model.bin")
    with pytest.raises(CodecError, match=said):
        load_codec(tmp_path)
