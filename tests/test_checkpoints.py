"""Codecs from checkpoints: the ids are the library's own, bit for bit; the contract holds; what is damaged,
dangerous or unknown is refused with a sentence.
"""

import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import transformers as hf
from checkpoints import AUDIO, IMAGE, OPTIONS, STEREO, TEXT, liven, make, save
from forked import forked, run_code
from safetensors.torch import load_file, save_file
from small_unclip import save_small_unclip
from torch import nn

from uti.audit.plan import AuditPlan, prepare
from uti.audit.record import AuditError
from uti.checks.base import CHECKS
from uti.checks.case import CodecCase
from uti.checks.encoding import threads, weights
from uti.codecs.base import CodecError
from uti.codecs.checkpoint_files import content_version, find_checkpoint
from uti.codecs.checkpoints import checkpoint_codecs, load_codec, modality_of
from uti.codecs.weights import not_in_files
from uti.config import Config, ConfigError, load_config, with_codecs
from uti.modalities.text import PROBES
from uti.testing import check_codec, codec_checks
from uti.tokens.tokenizer import UnifiedTokenizer
from uti.zoo.hf.audio import HFAudio
from uti.zoo.hf.image import HFImage
from uti.zoo.hf.image_families import CENTRED, CHAMELEON, CLIP, FLAVA, RAW
from uti.zoo.hf.text import HFText


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    "family → the folder of its checkpoint, made once."
    folder, made = tmp_path_factory.mktemp("checkpoints"), {}
    return lambda family: (
        made.setdefault(family, None) or made.update({family: save(family, folder)}) or made[family]
    )


def sounds(codec, *seconds):
    "Noise under a rising tone, float32 [batch, channels, samples], and the samples that are valid of each."
    rate = codec.spec.sample_rate
    lengths = [max(1, round(s * rate)) for s in seconds]
    t = torch.arange(max(lengths)) / rate
    generator = torch.Generator().manual_seed(0)
    waves = 0.3 * torch.sin(2 * math.pi * (200 + 500 * t) * t) + 0.1 * torch.randn(
        len(lengths), codec.spec.channels, max(lengths), generator=generator
    )
    return waves.clamp(-1, 1), torch.tensor(lengths)


def padded(codec, waves):
    "`waves` with the zeros that the family's feature extractor appends: up to whole chunks, or whole frames."
    config, rates = codec.loaded.config, codec.loaded.rates
    if getattr(config, "chunk_length_s", None):
        extractor = hf.EncodecFeatureExtractor(
            config.audio_channels, config.sampling_rate, chunk_length_s=1.0, overlap=0.01
        )
        own = {"sampling_rate": config.sampling_rate, "return_tensors": "pt"}
        return torch.cat([extractor(wave.numpy(), **own).input_values for wave in waves])
    return nn.functional.pad(waves, (0, -waves.shape[-1] % (rates.hop * rates.encode // rates.decode)))


def library_output(codec, waves):
    """What the library's own class makes of waves that are valid throughout, with the inputs that its
    feature extractor makes of them.
    """
    model, kind, config = codec.loaded.module, codec.spec.name, codec.loaded.config
    with torch.inference_mode():
        if kind == "encodec":
            return model.encode(padded(codec, waves), bandwidth=max(config.target_bandwidths))
        if kind not in ("xcodec2", "neucodec"):
            return model.encode(padded(codec, waves))
        # this one appends by itself, and by at least a sample
        extractor = hf.Xcodec2FeatureExtractor() if kind == "xcodec2" else hf.NeuCodecFeatureExtractor()
        sounds = [wave[0].numpy() for wave in (waves if kind == "xcodec2" else padded(codec, waves))]
        return model.encode(**extractor(sounds, sampling_rate=16_000, return_tensors="pt"))


def library_codes(codec, waves):
    "Codes [batch, codebooks, positions] of `library_output`, its chunks end to end."
    output = library_output(codec, waves)
    if codec.spec.name != "encodec":
        return output.audio_codes.long()
    last = output.audio_codes.shape[-1] - output.last_frame_pad_length
    return torch.cat([*output.audio_codes[:-1], output.audio_codes[-1][..., :last]], -1)


def some(families, *quick):
    "Return `families` as parameters, of which all but the `quick` ones wait for the slow run."
    return [f if f in quick else pytest.param(f, marks=pytest.mark.slow) for f in families]


@pytest.mark.parametrize("family", some(AUDIO, *(f for f in AUDIO if f != "xcodec2")))
def test_audio_ids_are_the_librarys(family, checkpoint):
    codec = HFAudio(checkpoint(family))
    waves, _ = sounds(codec, 1.6, 1.6, 1.6)
    theirs = library_codes(codec, waves)
    assert torch.equal(codec.encode(waves).codes, theirs), "in a batch"
    assert max(len(book.unique()) for book in theirs.movedim(1, 0)) > 8, (
        "codes that are all the same would be equal to anything"
    )
    hop = codec.loaded.rates.hop * codec.loaded.rates.encode // codec.loaded.rates.decode
    for n in (waves.shape[-1], 20 * hop, 13 * hop + hop // 3, 13 * hop - 1, hop, hop // 2, 1):
        wave = waves[:1, :, :n].contiguous()
        codes, (meta,) = codec.encode(wave)
        assert torch.equal(codes, library_codes(codec, wave)), f"alone, {n} samples"
        assert meta["n_positions"] == codes.shape[-1] and codec.decode(codes, [meta]).shape[-1] == (
            n * codec.loaded.rates.decode // codec.loaded.rates.encode
        )


@pytest.mark.parametrize("family", some(AUDIO, "encodec_48khz", "mimi"))
def test_a_shorter_sound_in_a_batch_keeps_its_codes(family, checkpoint):
    codec = HFAudio(checkpoint(family))
    waves, lengths = sounds(codec, 1.3, 0.51, 0.9)
    codes, meta = codec.encode(waves, lengths)
    decoded = codec.decode(codes, meta)
    for wave, n, found, m, back in zip(waves, lengths, codes, meta, decoded, strict=True):
        alone, alone_meta = codec.encode(wave[None, :, :n])
        assert (
            torch.equal(found[:, : m["n_positions"]], alone[0])
            and not found[:, m["n_positions"] :].any()
            and m == alone_meta[0]
        )
        assert m["n_samples"] == n * codec.loaded.rates.decode // codec.loaded.rates.encode
        assert (
            torch.allclose(back[:, : m["n_samples"]], codec.decode(alone, alone_meta)[0], atol=1e-6)
            and not back[:, m["n_samples"] :].any()
        )


def library_sound(codec, waves, codes, meta):
    "What the library's own class decodes of one wave or its codes, as long as the wave and in [-1, 1]."
    model = codec.loaded.module
    with torch.inference_mode():
        if codec.spec.name == "encodec":
            output = library_output(codec, waves)
            last = output.last_frame_pad_length
            decoded = model.decode(output.audio_codes, output.audio_scales, last_frame_pad_length=last)
        else:
            decoded = model.decode(audio_codes=codes)
    sound = decoded.audio_values.reshape(1, codec.spec.channels, -1)
    return sound[..., : meta[0]["n_samples"]].clamp(-1, 1)


def test_loudness_is_the_librarys_and_nobody_elses(checkpoint):
    "In float32 its last bit depends on the batch and the threads: in 5 of these 24 chunks, where measured."
    codec = HFAudio(checkpoint("encodec_48khz"))
    waves = torch.rand(8, 2, 110_000, generator=torch.Generator().manual_seed(0)) - 0.5
    together = [m["scales"] for m in codec.encode(waves).meta]
    with threads(2):
        alone = [codec.encode(wave[None]).meta[0]["scales"] for wave in waves]
    assert alone == together
    theirs = torch.cat(library_output(codec, waves).audio_scales, 1)
    assert torch.allclose(torch.tensor(together), theirs, rtol=1e-6)


@pytest.mark.parametrize("family", some(AUDIO, "encodec_48khz", "dac", "neucodec"))
def test_decoded_sounds_are_the_librarys(family, checkpoint):
    codec = HFAudio(checkpoint(family))
    waves, _ = sounds(codec, 0.8)
    codes, meta = codec.encode(waves)
    theirs = library_sound(codec, waves, codes, meta)
    ours = codec.decode(codes, meta)[..., : theirs.shape[-1]]
    # a loudness in the meta is measured in float64, the library's in float32
    assert torch.equal(ours, theirs) or ("scales" in meta[0] and torch.allclose(ours, theirs, atol=1e-6))


@pytest.mark.parametrize("family", some(AUDIO, "mimi"))
def test_audio_families_keep_the_contract(family, checkpoint):
    answers = {answer.name: answer for answer in check_codec(HFAudio(checkpoint(family)))}
    assert answers["weights"].passed and answers["weights"].found > 100


@pytest.mark.parametrize("family", some([f for f in AUDIO if f not in ("xcodec2", "neucodec")], "dac"))
def test_few_codebooks_are_the_first_of_many(family, checkpoint):
    every, few = HFAudio(checkpoint(family)), HFAudio(checkpoint(family), n_codebooks=2)
    waves, _ = sounds(every, 0.7)
    assert torch.equal(few.encode(waves).codes, every.encode(waves).codes[:, :2])


@pytest.mark.slow  # the contract is asked of one family of audio above
@pytest.mark.parametrize("family", ("encodec_48khz", "dac"))  # chosen by bandwidth, and by number
def test_few_codebooks_keep_the_contract(family, checkpoint):
    check_codec(HFAudio(checkpoint(family), n_codebooks=2))


def test_any_length_of_a_sound_in_chunks_is_encoded_and_comes_back(checkpoint):
    """The bare model fails for 1 to 320 samples beyond the start of a chunk: one length in a hundred and
    fifty.
    """
    codec = HFAudio(checkpoint("encodec_48khz"))
    ends = [k * 47_520 + r for k in (1, 2) for r in (-1, 0, 1, 160, 161, 320, 321, 480, 481)]
    wave = torch.rand(1, 2, max(ends), generator=torch.Generator().manual_seed(0)) - 0.5
    for n in (1, 319, 320, 321, *ends):
        codes, (meta,) = codec.encode(wave[..., :n].contiguous())
        assert torch.equal(codes, library_codes(codec, wave[..., :n]))
        chunks = math.ceil(n / 47_520)
        assert meta["chunk_positions"] == [150] * chunks + [2] and codes.shape[-1] == 150 * chunks + 2
        assert codec.decode(codes, [meta]).shape[-1] == n


PUBLISHED = {
    "encodec_24khz": {},
    "encodec_32khz": {
        "sampling_rate": 32_000,
        "upsampling_ratios": [8, 5, 4, 4],
        "codebook_size": 2048,
        "target_bandwidths": [2.2],
        "use_conv_shortcut": False,
        "norm_type": "weight_norm",
        "use_causal_conv": False,
    },
    "encodec_48khz": {**STEREO, "sampling_rate": 48_000, "target_bandwidths": [3.0, 6.0, 12.0, 24.0]},
}


@pytest.mark.slow  # networks of tens of millions of weights
@pytest.mark.parametrize("name", PUBLISHED)
def test_encodec_at_its_published_size(name, tmp_path):
    torch.manual_seed(0)
    model = liven(hf.EncodecModel(hf.EncodecConfig(**PUBLISHED[name])).eval())
    model.save_pretrained(tmp_path / name)
    codec = HFAudio(tmp_path / name)
    assert sum(p.numel() for p in codec.loaded.module.parameters()) > 14_000_000
    waves, _ = sounds(codec, 1.25, 1.25)
    codes = codec.encode(waves).codes
    assert torch.equal(codes, library_codes(codec, waves)) and len(codes.unique()) > 100


def library_ids(family, model, pixels):
    "Ids [batch, positions] by the library's own calls."
    with torch.inference_mode():
        if family.startswith("emu3"):
            sizes = torch.tensor([list(pixels.shape[-2:])] * len(pixels))
            return torch.stack([t.flatten() for t in model.encode(pixels, image_sizes=sizes).image_tokens])
        if family.startswith("flava"):
            return model.get_codebook_indices(pixels).flatten(1)
        if family.startswith("VQModel"):
            return model.quantize(model.encode(pixels).latents)[2][2].view(len(pixels), -1)
        if family == "glm_image":
            p = model.model.visual.config.patch_size
            patches = torch.nn.functional.unfold(pixels, p, stride=p).mT.reshape(-1, pixels.shape[1] * p * p)
            grid = torch.tensor([[1, pixels.shape[2] // p, pixels.shape[3] // p]] * len(pixels))
            seen = model.get_image_features(patches, grid).pooler_output
            return model.get_image_tokens(seen).view(len(pixels), -1)
        if family.startswith("janus"):  # whose original normalises both
            latents = model.quant_conv(model.encoder(pixels)).movedim(1, -1).flatten(1, 2)
            both = (
                torch.nn.functional.normalize(t, dim=-1) for t in (latents, model.quantize.embedding.weight)
            )
            return torch.einsum("bnd,kd->bnk", *both).argmax(-1)
        return model.encode(pixels).image_tokens.view(len(pixels), -1)


PIXELS = {"chameleon": CHAMELEON, "glm": CLIP, "flava": FLAVA, "VQModel_lookup": RAW}  # else CENTRED


@pytest.mark.parametrize("family", IMAGE)
def test_image_ids_are_the_librarys(family, checkpoint):
    codec, model = HFImage(checkpoint(family), **OPTIONS.get(family, {})), make(family)
    pixels = next((pixels for name, pixels in PIXELS.items() if family.startswith(name)), CENTRED)
    h, w = codec.spec.input_size
    across, down = torch.linspace(0, 1, w).expand(3, h, w), torch.linspace(0, 1, h)[:, None].expand(3, h, w)
    noise = torch.rand(3, h, w, generator=torch.Generator().manual_seed(0))
    images = torch.stack([across, down, noise])
    alone = family.startswith(("VQModel", "glm")) or family.endswith(("_vqgan", "_codebook"))
    part = model if alone else model.image_codebook if family == "flava" else model.model.vqmodel
    codes, meta = codec.encode(images)
    assert torch.equal(codes[:, 0], library_ids(family, part, pixels.normalise(images))), "in a batch"
    assert len(codes.unique()) > 8, "ids that are all the same would be equal to anything"
    for image in images:
        assert torch.equal(
            codec.encode(image[None]).codes[:, 0], library_ids(family, part, pixels.normalise(image[None]))
        ), "alone"
    assert {m["n_positions"] for m in meta} == {codec.spec.grid[0] * codec.spec.grid[1]}


@pytest.mark.parametrize("family", some(IMAGE, "janus", "flava"))
def test_image_families_keep_the_contract(family, checkpoint):
    answers = check_codec(HFImage(checkpoint(family), **OPTIONS.get(family, {})))
    assert next(answer for answer in answers if answer.name == "weights").passed


@pytest.mark.parametrize("family", [f for f in IMAGE if not f.startswith(("chameleon", "glm", "flava"))])
def test_decoded_pictures_are_the_librarys(family, checkpoint):
    codec, model = HFImage(checkpoint(family), **OPTIONS.get(family, {})), make(family)
    part = model if family.startswith("VQModel") or family.endswith("_vqgan") else model.model.vqmodel
    codes = torch.randint(codec.spec.codebook_sizes[0], (2, 1, math.prod(codec.spec.grid)))
    codes[0, 0, :2] = torch.tensor([0, codec.spec.codebook_sizes[0] - 1])
    drawn = codec.decode(codes, [codec.default_meta(), {"n_positions": codes.shape[-1]}])
    with torch.inference_mode():
        if family.startswith("VQModel"):
            shape = (2, *codec.spec.grid, part.config.latent_channels)
            vectors = part.quantize.get_codebook_entry(codes.flatten(), shape)
            theirs = part.decode(
                codes.flatten() if "lookup" in family else vectors, force_not_quantize=True, shape=shape
            ).sample
        else:
            theirs = part.decode(codes.view(2, *codec.spec.grid) if "emu3" in family else codes[:, 0])
    pixels = RAW if "lookup" in family else CENTRED
    torch.testing.assert_close(drawn, pixels.restore(theirs), rtol=0, atol=1e-4)
    with pytest.raises(CodecError, match="meta says pixel_mean"):
        codec.decode(codes[:1], [codec.default_meta() | {"pixel_mean": [0.1, 0.1, 0.1]}])


@pytest.mark.parametrize("family", ["emu3", "glm_image"])
def test_only_the_shards_of_the_tokenizer_are_needed(family, checkpoint, tmp_path):
    make(family).save_pretrained(tmp_path, max_shard_size="40KB")
    images = torch.rand(1, 3, 32, 32)
    whole = HFImage(tmp_path, image_size=32)
    shards = {path.name for path in tmp_path.glob("*.safetensors")}
    needed = {path.name for path in whole.files}
    assert len(shards) > len(needed) > 1
    for name in shards - needed:
        (tmp_path / name).unlink()
    again = HFImage(tmp_path, image_size=32)
    assert torch.equal(again.encode(images).codes, whole.encode(images).codes)
    assert again.spec.version == whole.spec.version and not again.spec.notes
    (tmp_path / sorted(needed)[0]).unlink()
    with pytest.raises(CodecError, match="weights are missing"):
        HFImage(tmp_path, image_size=32)


def test_a_whole_model_with_a_shard_cut_short_is_one_sentence(tmp_path, uti_here):
    make("emu3").save_pretrained(tmp_path / "emu3", max_shard_size="40KB")
    shard = sorted((tmp_path / "emu3").glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:100])
    run = uti_here("audit", "--image", "./emu3", "--outdir", "out")
    assert run.returncode == 2 and run.stderr.count("\n") == 1, run.stderr
    assert f"{shard.name}: cannot be read" in run.stderr and not (tmp_path / "out").exists()


def test_flavas_pixels_are_those_of_its_codebook(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("flava_image_codebook"), tmp_path / "flava")
    processor = hf.FlavaImageProcessor(codebook_image_mean=[0.1, 0, 0.2], codebook_image_std=[0.5, 1, 2])
    processor.save_pretrained(folder)
    image = (torch.rand(3, 112, 112) * 255).byte()
    theirs = processor(
        image, return_codebook_pixels=True, codebook_do_resize=False, codebook_do_center_crop=False,
        return_tensors="pt"
    ).codebook_pixel_values  # fmt: skip
    codec = HFImage(folder)
    assert codec.spec.input_size == (112, 112) and not codec.spec.decode_modes
    torch.testing.assert_close(codec.pixels.normalise(image[None] / 255), theirs, rtol=0, atol=1e-5)


def test_janus_says_that_its_codebook_is_normalised(checkpoint):
    codec, weight = HFImage(checkpoint("janus_vqgan")), make("janus_vqgan").quantize.embedding.weight
    torch.testing.assert_close(codec.model.quantize.embedding.weight.norm(dim=-1), torch.ones(len(weight)))
    folder = checkpoint("janus_vqgan")
    files = [folder / "config.json", folder / "model.safetensors"]
    assert codec.spec.version == content_version(*files, codebook="normalised") != content_version(*files)


LOSES = {"byte_level_bpe": [], "llama": ["marks of tokenizers"], "qwen": ["composed"]}


@pytest.mark.parametrize("family", TEXT)
def test_text_ids_are_the_librarys_without_special_tokens(family, checkpoint):
    codec, library = HFText(checkpoint(family)), hf.AutoTokenizer.from_pretrained(checkpoint(family))
    texts = ["The five lazy jugs.", "", *PROBES.values()]
    codes, meta = codec.encode(texts)
    for text, row, m in zip(texts, codes, meta, strict=True):
        theirs = library.encode(text)
        assert [library.bos_token_id, *row[0, : m["n_positions"]].tolist()] == theirs, (
            "all but the token that goes before"
        )
    back = codec.decode(codes, meta)
    assert codec.spec.lossless == (back == texts) == (not codec.spec.notes)
    changed = [name for name, text, b in zip(PROBES, texts[2:], back[2:], strict=True) if text != b]
    if family in LOSES:  # the others make an unknown word of nearly everything
        assert changed == LOSES[family]
    if changed:
        (note,) = codec.spec.notes
        first = changed[0]
        assert f"it changes texts with {', '.join(changed)}; {PROBES[first]!a} comes back as" in note


@pytest.mark.parametrize("family", TEXT)
def test_text_families_keep_the_contract(family, checkpoint):
    check_codec(HFText(checkpoint(family)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("family", some(["encodec_24khz", "encodec_48khz", "dac"], "encodec_24khz"))
def test_audio_in_another_dtype(family, dtype, checkpoint):
    "The 48 kHz EnCodec blends its chunks, which its library cannot do in half precision."
    codec, exact = HFAudio(checkpoint(family), dtype=dtype), HFAudio(checkpoint(family))
    waves, lengths = sounds(codec, 1.1, 0.3, 0.99375)  # at 48 kHz the last ends in the overlap of two chunks
    codes, meta = codec.encode(waves, lengths)
    assert codec.spec.dtype == dtype and len(codes.unique()) > 8
    decoded = codec.decode(codes, meta)
    assert decoded.shape[-1] == waves.shape[-1] and decoded.dtype == torch.float32
    assert decoded.isfinite().all()
    if family.startswith("encodec"):  # a random DAC makes much of every rounding
        torch.testing.assert_close(decoded, exact.decode(codes, meta), rtol=0, atol=0.1)


def test_a_thorough_run_counts_the_ids_that_differ_in_another_dtype(checkpoint):
    codec = {"codec": str(checkpoint("encodec_24khz"))}
    answers = [
        CHECKS["version_dtype"].ask(
            CodecCase(UnifiedTokenizer.from_config(Config(audio=codec)), "audio", thorough=thorough)
        )
        for thorough in (False, True)
    ]
    assert answers[0].passed is None and not any(answer.gates for answer in answers)
    assert len(answers[1].found) == 53 and all(0 < share <= 1 for share in answers[1].found)
    assert min(answers[1].found) < 1  # with random weights a processor may change all ids of a short probe
    assert "in bfloat16, probe 0: " in answers[1].detail and " in codebook " in answers[1].detail


@pytest.mark.slow  # two processes that import transformers
def test_a_model_that_is_given_as_an_object_is_asked_in_fresh_processes(checkpoint, sent, cold):
    asked = dict(codec_checks(HFAudio(checkpoint("mimi"))))
    answers = [*asked["fresh_process"](), *asked["fresh_process_decode"]()]
    assert all(answer.passed for answer in answers), answers


@pytest.mark.run
def test_a_tokenizer_that_is_not_lossless_says_so_in_the_report(checkpoint, tmp_path, uti_here):
    (tmp_path / "words.json").write_bytes((checkpoint("word_piece") / "tokenizer.json").read_bytes())
    run = uti_here("audit", "--text", "words.json", "--outdir", "out")
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["codecs"]) == {"text"}, "without a config only what was named is audited"
    assert "capitals" in report["codecs"]["text"]["notes"][0] and not report["codecs"]["text"]["lossless"]
    assert [
        c for c in report["checks"] if c["name"] == "lossless" and c["passed"] is False and not c["gates"]
    ]


def test_pixel_statistics_come_from_the_checkpoint(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("emu3_vqgan"), tmp_path / "emu3")
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    by_default = HFImage(folder, image_size=32).encode(image).codes
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.1, 0.1, 0.1]})
    )
    assert not torch.equal(HFImage(folder, image_size=32).encode(image).codes, by_default)


def write_json(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_both_files_of_preprocessing_are_read_and_belong_to_the_version(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("emu3_vqgan"), tmp_path / "emu3")
    seen = [HFImage(folder, image_size=32)]
    write_json(
        folder, "preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.1, 0.1, 0.1]}
    )
    seen.append(HFImage(folder, image_size=32))
    write_json(
        folder,
        "processor_config.json",
        {"image_processor": {"image_mean": [0.25, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}},
    )
    seen.append(HFImage(folder, image_size=32))
    write_json(folder, "processor_config.json", {"image_processor": {"do_normalize": False}})
    seen.append(HFImage(folder, image_size=32))
    seen.append(HFImage(folder, image_size=32, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]))
    assert [codec.pixels.mean[0] for codec in seen] == [0.5, 0.5, 0.25, 0, 0.5]
    assert [codec.pixels.std[0] for codec in seen] == [0.5, 0.1, 0.2, 1, 0.5]
    assert len({codec.spec.version for codec in seen}) == 5


def test_transformers_own_processor_says_how_pixels_are_made(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("chameleon_vqgan"), tmp_path / "chameleon")
    processor = hf.ChameleonProcessor(
        hf.ChameleonImageProcessorPil(image_mean=[0.1, 0.2, 0.3]),
        hf.AutoTokenizer.from_pretrained(checkpoint("byte_level_bpe")),
    )
    processor.save_pretrained(folder)
    assert HFImage(folder).pixels.mean == (0.1, 0.2, 0.3)


def test_the_extractors_settings_belong_to_the_version_of_a_sound_codec_that_has_one(checkpoint, tmp_path):
    for family, same in {"neucodec": False, "dac": True}.items():
        folder = shutil.copytree(checkpoint(family), tmp_path / family)
        before = HFAudio(folder).spec.version
        (hf.NeuCodecFeatureExtractor() if family == "neucodec" else hf.DacFeatureExtractor()).save_pretrained(
            folder
        )
        assert (HFAudio(folder).spec.version == before) == same


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "qwen.tiktoken", "merges.txt"])
def test_every_file_of_a_tokenizer_belongs_to_its_version(name, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("byte_level_bpe"), tmp_path / "text")
    before = HFText(folder).spec.version
    (folder / name).write_bytes(b"")
    assert HFText(folder).spec.version != before


def test_a_vqmodel_inside_a_pipeline(checkpoint, tmp_path):
    """Its config says 32 pixels where nobody set any, its pixels may lie in [0, 1], and the licence is the
    pipeline's.
    """
    whole = tmp_path / "pipeline"
    shutil.copytree(checkpoint("VQModel"), whole / "vqvae")
    (whole / "README.md").write_text("---\nlicense: mit\n---\n")
    assert HFImage(whole / "vqvae").spec.input_size == (512, 512)
    codec = load_codec(whole, subfolder="vqvae", image_size=32, image_mean=[0, 0, 0], image_std=[1, 1, 1])
    assert (codec.spec.licence, codec.spec.source) == ("mit", "pipeline/vqvae")
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(codec.encode(image).codes[:, 0], library_ids("VQModel", codec.model, image))
    for subfolder in ("movq", "../pipeline", 5):
        with pytest.raises(CodecError, match=f"{whole}: .*folder"):
            load_codec(whole, "image", subfolder=subfolder)


def test_of_a_hub_model_only_the_subfolder_is_fetched(checkpoint, tmp_path, monkeypatch):
    asked = []

    def download(checkpoint, without, subfolder):
        asked.append((checkpoint, subfolder, "*.safetensors" in without))
        return tmp_path

    shutil.copytree(checkpoint("VQModel"), tmp_path / "vqvae")
    monkeypatch.setattr("uti.codecs.checkpoint_files._download", download)
    assert (
        load_codec("somebody/pipeline", "image", subfolder="vqvae").spec.source == "somebody/pipeline/vqvae"
    )
    assert set(asked) == {("somebody/pipeline", "vqvae", False)}


def test_what_a_model_is_for_is_asked_without_its_weights(checkpoint, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "uti.codecs.checkpoint_files._from_hub",
        lambda name, weights, subfolder: asked.append(weights) or checkpoint("dac"),
    )
    assert modality_of("somebody/a-codec") == "audio" and asked == [False]


def test_a_weight_that_a_library_drew_is_found(checkpoint, tmp_path):
    "transformers draws what is missing and logs a line; the loader here refuses, so it is gone around."
    folder = shutil.copytree(checkpoint("dac"), tmp_path / "dac")
    state = load_file(folder / "model.safetensors")
    gone = "quantizer.quantizers.0.codebook.weight"
    state.pop(gone)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    codec = HFAudio(checkpoint("dac"))
    codec.loaded.module, codec.folder = hf.DacModel.from_pretrained(folder), folder
    found = weights(CodecCase(UnifiedTokenizer({"audio": codec}), "audio"))
    assert found.passed is False and found.found == found.expected - 1 and found.detail.endswith(gone)


def test_codebooks_that_the_config_leaves_out_are_listed(checkpoint, tmp_path):
    "Mimi's loader does not report them."
    folder = shutil.copytree(checkpoint("mimi"), tmp_path / "mimi")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_quantizers": 6}))
    codec = HFAudio(folder)
    (note,) = codec.spec.notes
    assert len(codec.spec.codebook_sizes) == 6 and "weights that the codec does not use" in note
    assert note.count("codebook.embed_sum") == 2 and not HFAudio(checkpoint("mimi")).spec.notes


# What is damaged, dangerous or unknown


def remove_a_key(folder):
    state = load_file(folder / "model.safetensors")
    gone = sorted(state)[3]
    save_file(
        {k: v for k, v in state.items() if k != gone}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    return ["missing", gone]


def reshape_a_tensor(folder):
    state = load_file(folder / "model.safetensors")
    name = next(k for k, v in sorted(state.items()) if v.ndim == 2)
    state[name] = torch.zeros(3, 3)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return ["do not fit the config", name, "[3, 3]"]


def plant_a_nan(folder):
    state = load_file(folder / "model.safetensors")
    name = next(k for k, v in sorted(state.items()) if v.ndim == 2)
    state[name][0, 0] = torch.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return ["hold NaN or infinity", name]


class Trap:
    def __reduce__(self):
        return os.system, ("touch trap-was-sprung",)


def plant_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, folder / "pytorch_model.bin")
    return ["refused", "system"]


def plant_a_raw_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    return ["refused"]


def forget_the_config(folder):
    (folder / "config.json").unlink()
    return ["holds no config.json"]


def name_an_unknown_model(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "phonograph"}))
    return ["model type 'phonograph'", "encodec"]


def break_the_config(folder):
    (folder / "config.json").write_text("{")
    return ["not JSON"]


def truncate_the_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    return ["cannot be read"]


def configured(**changes):
    "A damage: fields of the config are others; returns what is said, given as `said`."

    def damage(folder):
        said = changes["said"]
        config = json.loads((folder / "config.json").read_text())
        own = {name: value for name, value in changes.items() if name != "said"}
        (folder / "config.json").write_text(json.dumps(config | own))
        return said

    damage.__name__ = ", ".join(name for name in changes if name != "said")
    return damage


def store_integers(folder):
    state = load_file(folder / "model.safetensors")
    state = {name: (20 * value).to(torch.int8) for name, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return ["is stored as I8, which is no float16"]


def store_small_floats(folder):
    state = load_file(folder / "model.safetensors")
    state = {name: value.to(torch.float8_e4m3fn) for name, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return ["is stored as F8_E4M3"]


def lead_out_of_the_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "m.safetensors")
    weight_map = {name: "../m.safetensors" for name in load_file(folder.parent / "m.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return ["model.safetensors.index.json: names a file outside of its folder, ../m.safetensors"]


def grow_the_config(folder):
    (folder / "config.json").write_text("[" + " " * 2**24 + "]")
    return ["config.json: has more than 16 MB"]


FIELDS = [
    configured(num_residual_layers=10**9, said=["its config asks for a far larger model than its weights"]),
    configured(hidden_size=2**31, said=["cannot be loaded as EncodecModel"]),
    configured(sampling_rate=0, said=["cannot be loaded as EncodecModel (ZeroDivisionError"]),
    configured(sampling_rate=10**9, said=["a sampling rate of 1000000000"]),
    configured(upsampling_ratios=[8, 5, 4, 10**6], said=["cannot be loaded as EncodecModel"]),
    configured(quantization_config={"quant_method": "gptq"}, said=["weights are quantised (gptq)"]),
]


def forget_the_weights(folder):
    (folder / "model.safetensors").unlink()
    return ["no weights"]


def make_it_continuous(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "vibevoice_acoustic_tokenizer"}))
    return ["continuous latents"]


def hold_it_inside(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "musicgen"}))
    return ["a language model that holds a codec (encodec)", "model.audio_encoder.save_pretrained"]


def be_of_pictures(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "chameleon_vqgan"}))
    return ["model type 'chameleon_vqgan'", "nothing that a codec for audio here reads"]


def ask_for_remote_code(folder):
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "theirs",
        "auto_map": {"AutoModel": "modeling.Theirs"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text("import os; os.system('touch trap-was-sprung')")
    return ["model type 'theirs'"]


DAMAGES = [
    *FIELDS, store_integers, store_small_floats, lead_out_of_the_folder, grow_the_config,
    remove_a_key, reshape_a_tensor, plant_a_nan, plant_a_pickle, plant_a_raw_pickle, forget_the_config,
    name_an_unknown_model, break_the_config, truncate_the_weights, forget_the_weights, make_it_continuous,
    ask_for_remote_code, hold_it_inside, be_of_pictures
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_bad_checkpoint_is_one_sentence(damage, checkpoint, tmp_path, uti_here):
    folder = shutil.copytree(checkpoint("encodec_24khz"), tmp_path / "bad")
    expected = damage(folder)
    run = uti_here("audit", "--audio", "./bad", "--outdir", "out")
    lines = run.stderr.splitlines()
    assert run.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), run.stderr
    assert all(word in lines[0] for word in expected), lines[0]
    assert not (tmp_path / "out").exists() and not (tmp_path / "trap-was-sprung").exists()


def test_one_checkpoint_is_described_or_its_fault_is_said(checkpoint, tmp_path, uti_here):
    run = uti_here("codecs", str(checkpoint("encodec_24khz")))
    assert run.returncode == 0 and "24 kHz" in run.stdout and "sha256:" in run.stdout
    assert run.stdout.splitlines()[-1] == f"uti audit --audio {checkpoint('encodec_24khz')}"
    run = uti_here("codecs", "./nowhere")
    assert run.returncode == 2 and "no such folder, and not the id of a model" in run.stderr
    run = uti_here("codecs", "hf-audio")
    assert run.returncode == 2 and "'hf-audio' reads a checkpoint: give a folder" in run.stderr
    folder = shutil.copytree(checkpoint("encodec_24khz"), tmp_path / "bad")
    remove_a_key(folder)
    run = uti_here("codecs", str(folder))
    assert run.returncode == 2 and "weights are missing" in run.stderr and not run.stdout


def test_a_hop_that_is_not_the_models_own_is_found_when_it_loads(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("dac"), tmp_path / "dac")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hop_length": config["hop_length"] // 2}))
    with pytest.raises(CodecError, match=r"a hop length of \d+ is not its own"):
        HFAudio(folder)


def test_mimi_computes_its_codebooks_anew_where_it_goes(checkpoint):
    codec = HFAudio(checkpoint("mimi"))
    waves, _ = sounds(codec, 0.5)
    codes, meta = codec.encode(waves)
    kept = [part for part in codec.loaded.module.modules() if getattr(part, "_embed", None) is not None]
    codec.to("cpu")
    assert kept and all(part._embed is None for part in kept)
    assert torch.equal(codec.encode(waves).codes, codes)
    codec.loaded.module.double()
    codec.to("cpu")
    assert codec.decode(codes, meta).isfinite().all()


@pytest.mark.slow  # a process of its own for each of nine commands
def test_the_libraries_say_nothing_of_their_own(checkpoint, tmp_path):
    """In a process of its own, where what transformers and diffusers print reaches the terminal: a line for
    each command, one of them on a checkpoint with weights that are missing or do not fit.
    """
    bad = {}
    for family, _modality in {"encodec_24khz": "audio", "neucodec": "audio", "VQModel": "image"}.items():
        bad[family] = shutil.copytree(checkpoint(family), tmp_path / family)
        path = next(bad[family].glob("*.safetensors"))
        state = load_file(path)
        key = next(k for k, v in sorted(state.items()) if v.ndim > 1)
        save_file(
            {k: v for k, v in state.items() if k != key}
            | ({key: torch.zeros(3, 3)} if family == "neucodec" else {}),
            path,
            metadata={"format": "pt"},
        )
    save_small_unclip(tmp_path / "unclip")
    audits = [
        ["audit", "--image" if family == "VQModel" else "--audio", f"./{family}", "--outdir", "out"]
        for family in bad
    ]
    families = {
        "encodec_24khz": "audio",
        "neucodec": "audio",
        "VQModel": "image",
        "janus": "image",
        "unigram": "text",
    }
    good = [(modality, str(checkpoint(family))) for family, modality in families.items()]
    code = f"""
import contextlib, sys
from uti.cli.main import app
for arguments in {audits}:
    with contextlib.suppress(SystemExit):
        app(arguments)
from uti.codecs.checkpoints import load_codec
from uti.zoo.decoders.unclip import Unclip
for modality, folder in {good}:
    load_codec(folder, modality)
Unclip("unclip")
"""
    run = forked(run_code, code, folder=tmp_path)
    assert [line.split(": ")[:2] for line in run.stderr.splitlines()] == [
        ["error", family] for family in bad
    ] and run.returncode == 0, run.stderr


@pytest.mark.parametrize("damage", [remove_a_key, reshape_a_tensor], ids=lambda f: f.__name__)
@pytest.mark.parametrize("family", ["dac", "neucodec", "chameleon_vqgan", "janus"])
def test_damage_is_found_in_every_kind(family, damage, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint(family), tmp_path / "bad")
    if family == "janus":  # the whole model: only what the tokenizer needs is missed
        state = load_file(folder / "model.safetensors")
        key = next(k for k in state if ".vqmodel.encoder" in k and state[k].ndim == 4)
        state = (
            {k: v for k, v in state.items() if k != key}
            if damage is remove_a_key
            else state | {key: torch.zeros(3, 3)}
        )
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        expected = [key.split("vqmodel.")[1]]
    else:
        expected = damage(folder)
    with pytest.raises(CodecError) as error:
        load_codec(folder, "audio" if family in AUDIO else "image")
    assert all(word in str(error.value) for word in expected)


def test_surplus_keys_are_listed(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("dac"), tmp_path / "mine")
    save_file(
        {
            **load_file(folder / "model.safetensors"),
            **{f"optimizer.step{i}": torch.ones(1) for i in range(60)},
        },
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    [note] = HFAudio(folder).spec.notes
    assert all(f"optimizer.step{i}" in note for i in range(60)), "every one, however many"


def whole(folder, state):
    "As it was saved."


def decoy(folder, state):
    "Another file with weights lies beside it, last by name."
    save_file({name: value + 0.1 for name, value in state.items()}, folder / "zz.safetensors")


def decoy_beside_pickle(folder, state):
    to_pickle(folder, state)
    decoy(folder, state)


def to_pickle(folder, state):
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")


def beside_pickle(folder, state):
    "safetensors go first."
    torch.save({name: value + 0.1 for name, value in state.items()}, folder / "pytorch_model.bin")


def in_shards(folder, state, suffix="safetensors", stem="model", write=save_file):
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(state), {}
    for i in range(3):
        part = {name: state[name].clone() for name in names[i::3]}
        file = f"{stem}-0000{i + 1}-of-00003.{suffix}"
        write(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def in_pickled_shards(folder, state):
    in_shards(folder, state, "bin", "pytorch_model", torch.save)


def shards_and_a_whole(folder, state):
    "transformers takes the whole one."
    in_shards(folder, {name: value + 0.1 for name, value in state.items()})
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def named_by_the_config(folder, state):
    decoy(folder, state)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "zz.safetensors"}))


def in_half_precision(folder, state):
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})


LAYOUTS = [
    whole, decoy, decoy_beside_pickle, to_pickle, beside_pickle, in_shards, in_pickled_shards,
    shards_and_a_whole, named_by_the_config, in_half_precision,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("family", ["dac", "chameleon"])
def test_what_is_loaded_is_what_the_library_loads_and_what_is_hashed(family, layout, checkpoint, tmp_path):
    "The ids of the library's own class; and the files that the version is made of are those that were read."
    folder = shutil.copytree(checkpoint(family), tmp_path / "laid-out")
    layout(folder, load_file(folder / "model.safetensors"))
    if family == "dac":
        codec, model = HFAudio(folder), hf.DacModel.from_pretrained(folder, dtype=torch.float32).eval()
        signals, _ = sounds(codec, 0.3)
        with torch.inference_mode():
            theirs = model.encode(padded(codec, signals)).audio_codes.long()
    else:
        codec = HFImage(folder)
        whole_model = hf.ChameleonForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        signals = torch.rand(1, 3, *codec.spec.input_size, generator=torch.Generator().manual_seed(0))
        theirs = library_ids(family, whole_model.model.vqmodel.eval(), codec.pixels.normalise(signals))
    ours = codec.encode(signals).codes
    assert torch.equal(ours.flatten(), theirs.flatten())
    assert not not_in_files(codec.loaded_weights()) or layout is in_half_precision


@pytest.mark.parametrize("prefix", ["teacher.", ""])
def test_two_copies_of_a_part_are_the_librarys_one_or_said(prefix, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("chameleon"), tmp_path / "two")
    state = load_file(folder / "model.safetensors")
    copy = {
        prefix + (name if prefix else name.removeprefix("model.")): value + 0.1
        for name, value in state.items()
        if ".vqmodel." in name
    }
    save_file(state | copy, folder / "model.safetensors", metadata={"format": "pt"})
    if not prefix:
        with pytest.raises(CodecError, match=r"holds vqmodel more than once, as vqmodel and model\.vqmodel"):
            HFImage(folder)
        return
    ours, before = HFImage(folder), HFImage(checkpoint("chameleon"))
    images = torch.rand(1, 3, *ours.spec.input_size)
    assert torch.equal(ours.encode(images).codes, before.encode(images).codes)


CARDS = {
    "a date that is none": "date: 2024-99-99\nlicense: mit",
    "an integer that is none": "license: !!int x",
    "nested": "license: " + "[" * 5000,
    "an alias bomb": "a0: &a0 [l, l, l, l, l, l, l, l, l]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    + "license: *a9",
    "long": "x: y\n" * 2**20 + "license: mit",
}


@pytest.mark.parametrize("name", CARDS)
def test_a_card_that_is_odd_states_no_licence(name, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("dac"), tmp_path / "dac")
    (folder / "README.md").write_text(f"---\n{CARDS[name]}\n---\n")
    assert HFAudio(folder).spec.licence == "unknown: the checkpoint states none"
    (folder / "README.md").write_text("---\nlicense: [mit, apache-2.0]\n---\n")
    assert HFAudio(folder).spec.licence == "mit, apache-2.0"


def tokenizer_with(folder, **model):
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"] |= model
    path.write_text(json.dumps(data))


def test_merges_are_not_dropped(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("byte_level_bpe"), tmp_path / "dropping")
    tokenizer_with(folder, dropout=0.5)
    codec, text = HFText(folder), ["the quick brown fox " * 40]
    assert "its BPE dropout of 0.5 is switched off" in codec.spec.notes[0]
    ids = codec.encode(text).codes
    assert all(torch.equal(ids, codec.encode(text).codes) for _ in range(5))
    assert torch.equal(ids, HFText(checkpoint("byte_level_bpe")).encode(text).codes)


def test_a_tokenizer_that_cannot_encode_every_text_or_has_gaps_is_refused(checkpoint, tmp_path):
    lost = shutil.copytree(checkpoint("unigram"), tmp_path / "lost")
    tokenizer_with(lost, unk_id=None)
    with pytest.raises(CodecError, match=r"lost: cannot encode every text .*unk_id"):
        HFText(lost)
    gaps = shutil.copytree(checkpoint("byte_level_bpe"), tmp_path / "gaps")
    vocabulary = json.loads((gaps / "tokenizer.json").read_text())["model"]["vocab"]
    tokenizer_with(gaps, vocab=vocabulary | {"zzz": 10**9})
    with pytest.raises(CodecError, match=r"gaps: its vocabulary has \d+ entries and ids up to 1000000000"):
        HFText(gaps)


def test_a_sentencepiece_file_without_sentencepiece_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr("uti.zoo.hf.text.find_spec", lambda name: None)
    with pytest.raises(CodecError, match=r"tokenizer\.model: is read with sentencepiece.*install uti\[hf\]"):
        HFText(tmp_path)


def test_pytorch_weights_are_read_where_there_is_nothing_safer(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("dac"), tmp_path / "old")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    old, new = HFAudio(folder), HFAudio(checkpoint("dac"))
    waves, _ = sounds(new, 0.5)
    assert torch.equal(old.encode(waves).codes, new.encode(waves).codes)
    assert old.spec.version != new.spec.version


PREPROCESSORS = {
    "a list": ("preprocessor_config.json", [1], "holds no JSON object"),
    "one mean": ("preprocessor_config.json", {"image_mean": 3}, "image_mean must be three finite numbers"),
    "letters": (
        "preprocessor_config.json",
        {"image_mean": ["a", "b", "c"]},
        "image_mean must be three finite numbers",
    ),
    "one channel": (
        "preprocessor_config.json",
        {"image_std": [0.5]},
        "image_std must be three finite numbers above 0",
    ),
    "zeros": (
        "preprocessor_config.json",
        {"image_std": [0, 0, 0]},
        "image_std must be three finite numbers above 0",
    ),
    "not a number": (
        "preprocessor_config.json",
        '{"image_mean": [NaN, 0, 0]}',
        "image_mean must be three finite numbers",
    ),
    "a factor of 0": (
        "preprocessor_config.json",
        {"rescale_factor": 0},
        "rescale_factor must be a finite number above 0",
    ),
    "nested": (
        "processor_config.json",
        {"image_processor": {"image_std": [0, 1, 1]}},
        "image_std must be three finite numbers above 0",
    ),
    "nested list": (
        "processor_config.json",
        {"image_processor": [1]},
        "image_processor must be a JSON object",
    ),
    "a mean that leaves no pixel": (
        "preprocessor_config.json",
        {"image_mean": [1e38, 0, 0]},
        "image_mean must be three finite numbers",
    ),
    "a word for a truth": (
        "preprocessor_config.json",
        {"do_normalize": "false"},
        "do_normalize must be true or false, got 'false'",
    ),
    "too deep": ("preprocessor_config.json", "[" * 100_000, "not JSON"),
}


@pytest.mark.parametrize("case", PREPROCESSORS)
def test_pixel_statistics_that_are_none_are_refused(case, checkpoint, tmp_path):
    name, content, expected = PREPROCESSORS[case]
    folder = shutil.copytree(checkpoint("chameleon_vqgan"), tmp_path / "bad")
    write_json(folder, name, content)
    with pytest.raises(CodecError, match=f"{name}: {expected}"):
        HFImage(folder)


@pytest.mark.parametrize(
    "content, expected",
    [
        ("{", "not JSON"),
        ({"sampling_rate": 8000}, "takes audio at 8000 Hz"),
        ({"hop_length": "x"}, "cannot be used"),
    ],
)
def test_a_feature_extractor_at_fault_is_refused(content, expected, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("neucodec"), tmp_path / "bad")
    write_json(folder, "preprocessor_config.json", content)
    with pytest.raises(CodecError, match=f"bad.*{expected}"):
        HFAudio(folder)


CONFIGS = {
    "no chunk": ("encodec_48khz", {"chunk_length_s": 0}, "make chunks of 0 samples"),
    "no way to the next": ("encodec_48khz", {"overlap": 1.0}, "one every 1;"),
    "a gap": ("encodec_48khz", {"overlap": -1.0}, "leave no gap"),
    "no patch": ("janus_vqgan", {"num_patches": 0}, "image_size must be a multiple of 4 pixels .* got 0"),
    "an image too large": ("chameleon_vqgan", {"resolution": 100_000_000}, "at most 4096, got 100000000"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_no_machine_can_serve_is_refused(case, checkpoint, tmp_path):
    family, change, expected = CONFIGS[case]
    folder = shutil.copytree(checkpoint(family), tmp_path / "bad")
    write_json(folder, "config.json", json.loads((folder / "config.json").read_text()) | change)
    with pytest.raises(CodecError, match=f"bad: .*{expected}"):
        load_codec(folder, "audio" if family in AUDIO else "image")


A_CHECKPOINT = "a checkpoint must be a folder or the id of a model on the Hugging Face hub"
A_SIZE = "image_size must be a multiple of 4 pixels and at most 4096"
YAMLS = {
    "device: cuda\ntext: embedded-text": "device 'cuda' cannot be used here",
    "device: nonsense\ntext: embedded-text": "device 'nonsense' cannot be used here",
    "device: meta\ntext: embedded-text": "device 'meta' cannot be used here",
    "audio: {codec: ./dac, options: {checkpoint: ./other}}": "./dac: is the checkpoint already",
    "audio: {codec: hf-audio, options: {checkpoint: [1, 2]}}": f"{A_CHECKPOINT}, got [1, 2]",
    "audio: {codec: hf-audio, options: {checkpoint: ''}}": f"{A_CHECKPOINT}, got ''",
    "image: {codec: ./VQModel, options: {image_size: 100000000}}": A_SIZE,
    "image: {codec: ./VQModel, options: {image_size: '64'}}": A_SIZE,
    "image: {codec: ./VQModel, options: {image_std: 0.5}}": "image_std must be three finite numbers above 0",
}


@pytest.mark.parametrize("yaml", YAMLS)
def test_a_config_at_fault_is_one_sentence(yaml, checkpoint, tmp_path, uti_here):
    if "cuda" in yaml and torch.cuda.is_available():
        pytest.skip("cuda is here")
    for family in ("dac", "VQModel"):
        (tmp_path / family).symlink_to(checkpoint(family))
    (tmp_path / "uti.yaml").write_text(yaml)
    run = uti_here("audit", "--config", "uti.yaml", "--outdir", "out")
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1, run.stderr
    assert YAMLS[yaml] in run.stderr and not (tmp_path / "out").exists()


# From a path to a report


@pytest.mark.run
def test_a_codec_without_a_decoder_is_audited_as_far_as_it_goes(checkpoint, tmp_path, uti_here, small):
    run = uti_here(
        "audit", "--image", checkpoint("chameleon_vqgan"), "--smoke-assets", small, "--outdir", "out"
    )
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["image_psnr"] is None and report["image_token_range_ok"]
    assert [c["passed"] for c in report["checks"] if c["name"] == "refuses_decode"] == [True]


def test_a_path_in_the_config_is_enough(checkpoint, tmp_path):
    config = tmp_path / "uti.yaml"
    config.write_text(
        f"audio: {checkpoint('mimi')}\nimage: {{codec: {checkpoint('VQModel')}}}\ntext: embedded-text\n"
    )
    tokenizer = UnifiedTokenizer.from_config(config)
    assert [c.spec.name for c in tokenizer.codecs.values()] == ["embedded-text", "VQModel", "mimi"]
    tokenizer.save_pretrained(tmp_path / "saved")
    assert UnifiedTokenizer.from_pretrained(tmp_path / "saved").space == tokenizer.space


def test_options_go_with_a_path(checkpoint):
    config = with_codecs(None, audio=str(checkpoint("encodec_48khz")))
    assert set(config.codecs()) == {"audio"}
    assert (
        load_codec(checkpoint("encodec_48khz"), bandwidth=3.0).spec.n_codebooks
        < load_codec(checkpoint("encodec_48khz"), bandwidth=6.0).spec.n_codebooks
    )
    with pytest.raises(CodecError, match=r"does not take these options"):
        load_codec(checkpoint("dac"), volume=11)
    with pytest.raises(CodecError, match=r"bandwidth must be one of"):
        HFAudio(checkpoint("encodec_48khz"), bandwidth=5.0)
    with pytest.raises(CodecError, match=r"not by bandwidth"):
        HFAudio(checkpoint("dac"), bandwidth=5.0)
    with pytest.raises(CodecError, match=r"n_codebooks must be 1 to 4"):
        HFAudio(checkpoint("dac"), n_codebooks=5)
    with pytest.raises(CodecError, match=r"dtype must be one of"):
        HFAudio(checkpoint("dac"), dtype="int8")


def test_named_codecs_take_the_place_of_the_configs(tmp_path):
    assert (
        with_codecs(load_config(), audio="x").audio.codec == "x"
        and with_codecs(load_config(), audio="x").image == load_config().image
    )
    with pytest.raises(ConfigError):
        (tmp_path / "uti.yaml").write_text("audio: 5\n")
        load_config(tmp_path / "uti.yaml")


@pytest.mark.run
def test_offline_the_message_is_a_recipe(tmp_path, uti, uti_here):
    run = uti(
        "audit", "--audio", "facebook/encodec_24khz", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "cache")
    )
    assert run.returncode == 2 and "Traceback" not in run.stderr
    for word in ("facebook/encodec_24khz", "hf download", "--local-dir", str(tmp_path / "cache")):
        assert word in run.stderr
    assert "nearest names" in uti_here("audit", "--audio", "embeded-audio").stderr
    assert "no such folder" in uti_here("audit", "--audio", "./nowhere").stderr
    assert "openai-community/gpt2" in uti_here("audit", "--text", "gpt2").stderr
    (tmp_path / "empty").mkdir()
    assert (
        "empty: holds nothing that a codec for text here reads"
        in (said := uti_here("audit", "--text", "./empty").stderr)
        and "config.json" not in said
    )


def cached(checkpoint, tmp_path) -> tuple[Path, Path]:
    "A small DAC as the hub's cache holds it: its repository there, and the home of the cache."
    commit, home = "0" * 40, tmp_path / "cache"
    folder = home / "hub" / "models--somebody--a-codec"
    shutil.copytree(checkpoint("dac"), folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    return folder, home


@pytest.mark.slow  # a whole audit in two processes; the next test asks in this one
@pytest.mark.run
def test_a_checkpoint_in_the_hub_cache_needs_no_network(checkpoint, tmp_path, small):
    _, home = cached(checkpoint, tmp_path)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    audit = ["audit", "--audio", "somebody/a-codec", "--smoke-assets", small, "--outdir", tmp_path / "out"]
    command = [sys.executable, "-m", "uti", *map(str, audit)]  # the hub's library reads them when imported
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert all(re.match(r"\[\d+/\d+\] ", line) for line in run.stderr.splitlines()), run.stderr
    assert (
        json.loads((tmp_path / "out" / "report.json").read_text())["codecs"]["audio"]["source"]
        == "somebody/a-codec@000000000000"
    )


def test_a_revision_is_read_from_the_hub_cache(checkpoint, tmp_path):
    folder, home = cached(checkpoint, tmp_path)
    (folder / "refs" / "v1").write_text((folder / "refs" / "main").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
        for name in ("somebody/a-codec", "somebody/a-codec@v1"):
            assert HFAudio(name).spec.source == "somebody/a-codec@000000000000"
        with pytest.raises(
            CodecError, match=r"hf download somebody/a-codec --revision v2 --local-dir a-codec"
        ):
            HFAudio("somebody/a-codec@v2")


def test_whole_models_are_images_and_glms_quantiser_alone_is_refused(checkpoint, tmp_path):
    assert modality_of(str(checkpoint("janus"))) == "image"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "glm_image_vqmodel"}))
    with pytest.raises(CodecError, match=r"give the whole model"):
        load_codec(tmp_path, "image")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(CodecError, match=r"continuous latents"):
        load_codec(tmp_path, "image")
    with pytest.raises(CodecError, match=r"no such folder"):
        find_checkpoint("nowhere at all")


def test_two_files_without_a_config_are_seed2(tmp_path):
    for name in ("eva_vit_g.pth", "seed_quantizer.pt"):
        (tmp_path / name).touch()
    readers = checkpoint_codecs("image")
    assert [name for name, reader in readers.items() if reader.recognises(tmp_path)] == ["seed2"]
    assert modality_of(str(tmp_path)) == "image"
    with pytest.raises(CodecError, match=r"holds no config.json"):
        load_codec(tmp_path, "audio")


def test_a_reader_of_checkpoints_needs_one():
    for name in ("hf-audio", "seed2", "hf-text"):
        with pytest.raises(CodecError, match=f"{name}' reads a checkpoint: give a folder"):
            load_codec(name)


def test_diffusion_is_refused_where_nothing_draws(checkpoint, tmp_path):
    with pytest.raises(AuditError, match=r"'chameleon' has no diffusion decoder; it has none"):
        prepare(
            AuditPlan(
                with_codecs(None, image=str(checkpoint("chameleon_vqgan"))),
                tmp_path / "out",
                decode_mode="diffusion",
            )
        )


def test_neucodec_takes_16_and_gives_24_khz(checkpoint):
    tokenizer = UnifiedTokenizer({"audio": HFAudio(checkpoint("neucodec"))})
    wave = 0.1 * torch.randn(1, 16_001).clamp(-1, 1)
    tokens = tokenizer.encode_audio(wave, 16_000)
    back = tokenizer.decode_audio(*tokens)
    assert (back.rate, back.wave.shape) == (24_000, (1, 24_001)) and tokens.meta["preprocessing"][
        "rate"
    ] == 16_000


@pytest.mark.run
def test_every_codec_that_reads_checkpoints_is_listed(uti):
    run = uti("codecs", COLUMNS="200")
    assert run.returncode == 0
    for word in ("hf-audio", "hf-image", "hf-text", "seed2", "encodec", "glm_image"):
        assert word in run.stdout


def test_the_page_of_families_names_each():
    "The page is made by the tests that take long; a family that is added here is missing there till then."
    page = nbformat.read(Path(__file__).parent.parent / "nbs" / "zoo" / "families.ipynb", as_version=4)
    tables = [o.data.get("text/html", "") for c in page.cells for o in c.get("outputs", []) if "data" in o]
    for family in (*AUDIO, *IMAGE, *TEXT):
        assert any(f"<td>{family}</td>" in table for table in tables), family
