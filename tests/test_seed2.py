"""SEED-2: the same numbers as SEED's own code at every stage, only its own weights load.

Pictures are drawn the same twice, without a network.
"""

import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import torch
import transformers as hf
import yaml
from checkpoints import STEREO, TEXT, liven
from safetensors.torch import load_file, save_file
from small_unclip import save_small_unclip
from torch import nn

from uti.checks.case import reference_of
from uti.codecs.base import CodecError
from uti.files import packaged
from uti.modalities.base import Image, Sample
from uti.modalities.image import normalise_image
from uti.testing import check_codec
from uti.tokens.tokenizer import UnifiedTokenizer
from uti.zoo.decoders.unclip import Unclip, pipeline_folder
from uti.zoo.seed2.codec import Seed2
from uti.zoo.seed2.config import Seed2Config
from uti.zoo.seed2.network import MEAN, STD, Seed2Network, load_network, published

REFERENCE = Path(__file__).parent / "data" / "seed2_parity.pt"
META = {"n_positions": 32}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    "Whatever opens a connection to another machine fails its test."
    connect = socket.socket.connect

    def refused(self, address):
        if self.family != socket.AF_UNIX:
            raise AssertionError("a connection was opened")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture(scope="module")
def reference() -> dict:
    return torch.load(REFERENCE, weights_only=True)


def write(folder: Path, reference: dict, vision=None, quantiser=None, **config) -> Path:
    "The two files and the config of the reference in `folder`, with what the arguments replace."
    folder.mkdir(exist_ok=True)
    torch.save(vision or reference["vit_ckpt"], folder / "eva_vit_g.pth")
    torch.save(quantiser or reference["quantizer_ckpt"], folder / "seed_quantizer.pt")
    (folder / "config.json").write_text(json.dumps(reference["config"] | config))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, reference) -> Path:
    return write(tmp_path_factory.mktemp("seed") / "seed-2-small", reference)


@pytest.fixture(scope="module")
def unclip_folder(tmp_path_factory) -> Path:
    return save_small_unclip(tmp_path_factory.mktemp("diffusion") / "unclip")


@pytest.fixture(scope="module")
def drawing(checkpoint, unclip_folder) -> Seed2:
    return Seed2(checkpoint, diffusion=unclip_folder, steps=2)


# The numbers of the reference implementation


def stages(network: Seed2Network) -> dict[str, nn.Module]:
    "The module that gives each stage of the reference."
    return {
        "vit_out": network.visual_encoder,
        "vision_out": network.ln_vision,
        "query_embed_ln": network.qformer.layernorm,
        **{f"qformer_layer_{i}": layer for i, layer in enumerate(network.qformer.encoder.layer)},
        "qformer_out": network.qformer,
        "prequant": network.encode_task_layer,
        "decoded_queries": network.decode_task_layer,
        "dec_task_out": network.decode_task_layer,
        "dec_blocks_out": network.blocks_image,
        "dec_down_out": network.image_down,
        "image_embeds": network.distill_image_proj,
    }


EMBEDDING_STAGES = ("decoded_queries", "dec_task_out", "dec_blocks_out", "dec_down_out", "image_embeds")


@torch.inference_mode()
def outputs(network: Seed2Network, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    "What each stage gives for normalised pictures, and the ids."
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update(
                {name: getattr(output, "last_hidden_state", output)}
            )
        )
        for name, module in stages(network).items()
    ]
    ids = network.ids(network.encode_pixels(pixels))
    network.embeddings(network.codebook(ids))
    for hook in hooks:
        hook.remove()
    return {**seen, "ids": ids}


def off(network: Seed2Network, reference: dict) -> dict[str, float]:
    "Stages that lie further from the reference than is allowed, with the distance."
    expected = {**reference, **reference["decode_steps"]}
    found = outputs(network, reference["images"])
    distances = {name: (found[name] - expected[name]).abs().max().item() for name in stages(network)}
    return {name: d for name, d in distances.items() if not d <= (5e-6 if name in EMBEDDING_STAGES else 2e-5)}


def test_every_stage_is_that_of_the_reference(checkpoint, reference):
    network, _ = load_network(checkpoint)
    assert off(network, reference) == {}
    assert torch.equal(outputs(network, reference["images"])["ids"], reference["ids"])


def test_embeddings_of_any_ids_are_those_of_the_reference(checkpoint, reference):
    embeddings = Seed2(checkpoint).image_embeddings(reference["free_ids"][:, None])
    torch.testing.assert_close(embeddings, reference["free_image_embeds"], rtol=0, atol=5e-6)


def wrong_epsilon(network):
    network.ln_vision.eps = 1e-6


def tanh_gelu(network):
    for layer in network.visual_encoder.encoder.layers:
        layer.mlp.activation_fn = nn.GELU("tanh")


def no_mask(network):
    object.__setattr__(network.config, "causal", False)


@pytest.mark.parametrize("spoil, ids_stay", [(wrong_epsilon, True), (tanh_gelu, True), (no_mask, False)])
def test_the_comparison_would_notice(checkpoint, reference, spoil, ids_stay):
    "Two of these leave every id as it is: a comparison of ids alone would not notice them."
    network, _ = load_network(checkpoint)
    spoil(network)
    assert off(network, reference)
    assert torch.equal(outputs(network, reference["images"])["ids"], reference["ids"]) == ids_stay


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_mask_is_right_with_both_implementations_of_attention(checkpoint, reference, attention):
    network, _ = load_network(checkpoint)
    for part in (network.visual_encoder, network.qformer):
        part.set_attn_implementation(attention)
    assert off(network, reference) == {}


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_pictures_are_stretched_as_in_the_reference(reference, resample):
    expected = reference["preprocess"]
    found, record = normalise_image(expected["picture"].numpy(), (224, 224), "stretch", resample)
    assert torch.equal((found * 255).round().byte().movedim(0, -1), expected[resample])
    assert (record["crop"], record["resize"]) == ("none", resample)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_pictures_of_any_proportions_reach_the_codec_stretched(checkpoint, resample):
    """So they get the ids that SEED's own code gives them.

    What the decoded picture is measured against is stretched, too.
    """
    codec = Seed2(checkpoint, resample=resample)
    tokenizer = UnifiedTokenizer({"image": codec})
    pixels = torch.randint(
        256, (60, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).numpy()
    stretched, record = normalise_image(pixels, (42, 42), "stretch", resample)
    assert not torch.equal(stretched, normalise_image(pixels, (42, 42))[0])
    tokens = tokenizer.encode_image(pixels)
    assert torch.equal(
        tokens.ids - tokenizer.space.ranges["IMAGE"].start, codec.encode(stretched[None]).codes.flatten()
    )
    assert tokens.meta["preprocessing"] == record and codec.spec.resample == resample
    image = Image(torch.from_numpy(pixels).movedim(-1, 0))
    assert torch.equal(reference_of(tokenizer, Sample("a", "image", image)).pixels, stretched)
    assert (codec.spec.version == Seed2(checkpoint).spec.version) == (resample == "bicubic")


@pytest.mark.parametrize(
    "option",
    [
        {"steps": True},
        {"steps": 5000},
        {"steps": 0},
        {"guidance_scale": "x"},
        {"guidance_scale": float("nan")},
        {"seed": 2**64},
        {"diffusion": 5},
        {"diffusion": ""},
        {"resample": "nearest"},
        {"resize": "squash"},
    ],
)
def test_options_at_fault_are_refused_before_anything_is_drawn(checkpoint, unclip_folder, option):
    expected = "a checkpoint must be a folder" if "diffusion" in option else f"{next(iter(option))} must be"
    with pytest.raises(CodecError, match=expected):
        Seed2(checkpoint, **{"diffusion": unclip_folder, **option})


def test_encode_normalises_with_the_statistics_of_clip(checkpoint, reference):
    codec = Seed2(checkpoint)
    pictures = torch.rand(2, 3, 42, 42, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    codes, meta = codec.encode(pictures)
    assert torch.equal(codes[:, 0], outputs(codec.network, (pictures - mean) / std)["ids"])
    assert codes.shape == (2, 1, 32) and codes.dtype == torch.int64 and meta == [META] * 2


# Files


def without(state: dict, key: str) -> dict:
    assert key in state
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize("key", ["cls_token", "blocks.2.attn.v_bias", "blocks.0.attn.qkv.weight"])
def test_a_missing_weight_of_the_vision_file_is_named(tmp_path, reference, key):
    with pytest.raises(CodecError, match=rf"eva_vit_g.pth: 1 of \d+ weights are missing: {key}$"):
        Seed2(write(tmp_path, reference, vision=without(reference["vit_ckpt"], key)))


@pytest.mark.parametrize(
    "key",
    [
        "query_tokens",
        "ln_vision.bias",
        "Qformer.bert.encoder.layer.2.crossattention.self.key.weight",
        "quantize.embedding.weight",
        "blocks_image.1.attn.qkv.bias",
    ],
)
def test_a_missing_weight_of_the_quantiser_file_is_named(tmp_path, reference, key):
    with pytest.raises(CodecError, match=rf"seed_quantizer.pt: 1 of \d+ weights are missing: {key}$"):
        Seed2(write(tmp_path, reference, quantiser=without(reference["quantizer_ckpt"], key)))


def test_a_weight_of_another_shape_is_named(tmp_path, reference):
    with pytest.raises(CodecError, match=r"quantize.embedding.weight is \[64, 8\], not \[128, 8\]"):
        Seed2(write(tmp_path, reference, codebook_size=128))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, reference):
    class Intruder:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "intruded"),)

    folder = write(tmp_path, reference, vision=reference["vit_ckpt"] | {"cls_token": Intruder()})
    with pytest.raises(CodecError, match=r"refused"):
        Seed2(folder)
    assert not (tmp_path / "intruded").exists()


@pytest.mark.parametrize("absent", ["eva_vit_g.pth", "seed_quantizer.pt"])
def test_an_absent_file_is_named(tmp_path, reference, absent):
    folder = write(tmp_path, reference)
    assert Seed2.recognises(folder)
    (folder / absent).unlink()
    assert not Seed2.recognises(folder)
    with pytest.raises(CodecError, match=f"missing: {absent} or .safetensors"):
        Seed2(folder)


@pytest.mark.parametrize(("stem", "other"), [("vision", "seed_quantizer"), ("quantiser", "eva_vit_g")])
def test_one_file_given_for_the_other_is_told(tmp_path, reference, stem, other):
    wrong = reference["quantizer_ckpt"] if stem == "vision" else reference["vit_ckpt"]
    with pytest.raises(CodecError, match=f"holds the weights of the other file, {other}"):
        Seed2(write(tmp_path / "seed", reference, **{stem: wrong}))


def test_a_picture_may_be_cropped_and_the_version_says_so(checkpoint):
    codec, usual = Seed2(checkpoint, resize="crop"), Seed2(checkpoint)
    tokenizers = [UnifiedTokenizer({"image": c}) for c in (codec, usual)]
    wide = torch.randint(0, 256, (60, 120, 3), generator=torch.Generator().manual_seed(0)).numpy()
    cropped, stretched = (t.normalise("image", wide.astype("uint8"))[0].pixels for t in tokenizers)
    middle = normalise_image(wide.astype("uint8"), (42, 42), "crop")[0]
    assert torch.equal(cropped, middle) and not torch.equal(stretched, cropped)
    assert codec.spec.version != usual.spec.version


def test_surplus_weights_are_listed(checkpoint):
    vision, quantiser = Seed2(checkpoint).spec.notes[:2]
    assert vision.startswith(
        "eva_vit_g.pth holds 15 weights that the codec does not use: blocks.3.attn.proj.bias"
    )
    assert quantiser.startswith(
        "seed_quantizer.pt holds 57 weights that the codec does not use: "
        "Qformer.bert.embeddings.position_embeddings.weight"
    )


def test_safetensors_and_half_precision_files_load(tmp_path, reference):
    "The public vision file is in half precision."
    folder = write(tmp_path, reference)
    save_file(
        {k: v.half().contiguous() for k, v in reference["vit_ckpt"].items()}, folder / "eva_vit_g.safetensors"
    )
    (folder / "eva_vit_g.pth").unlink()
    network, _ = load_network(folder)
    assert next(network.visual_encoder.parameters()).dtype == torch.float32
    torch.testing.assert_close(
        outputs(network, reference["images"])["vit_out"], reference["vit_out"], rtol=0, atol=0.02
    )


def test_the_version_follows_the_weights(tmp_path, checkpoint, reference):
    changed = reference["vit_ckpt"] | {"cls_token": reference["vit_ckpt"]["cls_token"] + 1e-3}
    assert Seed2(checkpoint).spec.version == Seed2(write(tmp_path / "same", reference)).spec.version
    assert (
        Seed2(checkpoint).spec.version
        != Seed2(write(tmp_path / "other", reference, vision=changed)).spec.version
    )


def test_views_write_through(checkpoint, reference):
    network, _ = load_network(checkpoint)
    vision, quantiser = published(network)
    assert (
        vision.keys() <= reference["vit_ckpt"].keys()
        and quantiser.keys() <= reference["quantizer_ckpt"].keys()
    )
    vision["blocks.0.attn.v_bias"].fill_(7)
    bias = network.visual_encoder.encoder.layers[0].self_attn.qkv.bias
    assert (bias[-64:] == 7).all() and (bias[64:128] == 0).all()


def test_the_published_sizes_are_those_of_blip2():
    "Built without memory: the defaults are a network of 1.1 thousand million weights."
    with torch.device("meta"):
        network = Seed2Network(Seed2Config())
    vision, quantiser = published(network)
    assert (
        vision["pos_embed"].shape == (1, 257, 1408)
        and vision["blocks.38.mlp.fc1.weight"].shape == (6144, 1408)
        and "blocks.39.norm1.weight" not in vision
    )
    assert quantiser["quantize.embedding.weight"].shape == (8192, 32) and quantiser[
        "distill_image_proj.weight"
    ].shape == (1024, 1024)
    assert quantiser["Qformer.bert.encoder.layer.10.crossattention.self.key.weight"].shape == (768, 1408)
    assert not [k for k in quantiser if "layer.11.crossattention" in k]


@pytest.mark.parametrize(
    "config, why",
    [
        ({"vit_dept": 3}, "no size of SEED-2"),
        ({"vit_depth": "3"}, "cannot be '3'"),
        ({"vit_depth": True}, "cannot be True"),
        ({"image_down": []}, "cannot be"),
        ({"vit_heads": 5}, "no multiple"),
        ({"ln_vision_eps": float("nan")}, "cannot be nan"),
        ({"use_qformer_image": True}, "never published"),
    ],
)
def test_a_config_that_is_wrong_is_refused(tmp_path, reference, config, why):
    with pytest.raises(CodecError, match=why):
        Seed2(write(tmp_path, reference, **config))


@pytest.mark.parametrize(
    "options, why",
    [
        ({"dtype": "int8"}, "dtype must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"diffusion": "./nowhere"}, "no such folder"),
    ],
)
def test_options_that_are_wrong_are_refused(checkpoint, options, why):
    with pytest.raises(CodecError, match=why):
        Seed2(checkpoint, **options)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes_encode_and_say_so(checkpoint, reference, dtype):
    codec = Seed2(checkpoint, dtype=dtype)
    assert codec.spec.dtype == dtype and codec.network.query_tokens.dtype == getattr(torch, dtype)
    differing = (outputs(codec.network, reference["images"])["ids"] != reference["ids"]).sum()
    assert differing == 0 if dtype == "float64" else differing < 20
    assert codec.image_embeddings(reference["ids"][:, None]).dtype == torch.float32


# The contract


def test_the_codec_keeps_the_contract_without_pixels(checkpoint):
    codec = Seed2(checkpoint)
    answers = {check.name: check for check in check_codec(codec)}
    assert answers["refuses_decode"].passed
    assert set(answers["own"].found) == {"image_embedding", "image_embedding_cosine"}
    with pytest.raises(CodecError, match=r"set its option `diffusion` to a Stable unCLIP"):
        codec.decode(torch.zeros(1, 1, 32, dtype=torch.int64), [META])


def test_the_codec_keeps_the_contract_with_pixels(drawing):
    assert drawing.spec.decode_modes == ("deterministic", "diffusion")
    answers = {check.name for check in check_codec(drawing)}
    assert {"decode_determinism", "any_codes_decode", "rejection"} <= answers


def test_codes_that_are_not_a_picture_are_refused(drawing):
    with pytest.raises(CodecError, match=r"32 positions, got 31"):
        drawing.image_embeddings(torch.zeros(1, 1, 31, dtype=torch.int64))
    with pytest.raises(CodecError, match=r"outside codebook 0"):
        drawing.image_embeddings(torch.full((1, 1, 32), 64))
    with pytest.raises(CodecError, match=r"32 positions, got 31"):
        drawing.decode(torch.zeros(1, 1, 32, dtype=torch.int64), [{"n_positions": 31}])


def test_own_checks_notice_an_embedding_that_is_not_finite(checkpoint):
    codec = Seed2(checkpoint)
    pictures = torch.rand(1, 3, 42, 42)
    encoded = codec.encode(pictures)
    assert all(passed for _, passed, _, _ in codec.own_checks(pictures, encoded))
    codec.network.distill_image_proj.bias[0] = float("nan")
    assert not any(passed for _, passed, _, _ in codec.own_checks(pictures, encoded))


# Pictures


def test_the_same_picture_twice_and_wherever_it_lies_in_a_batch(drawing, reference):
    codes = reference["ids"][:, None]
    pictures = drawing.decode(codes, [META] * 3)
    assert pictures.shape == (3, 3, *drawing.spec.output_size) and pictures.dtype == torch.float32
    assert pictures.min() >= 0 and pictures.max() <= 1 and not torch.equal(pictures[0], pictures[1])
    torch.rand(5)  # somebody else draws
    assert torch.equal(drawing.decode(codes, [META] * 3), pictures)
    assert torch.equal(drawing.decode(codes.flip(0), [META] * 3).flip(0), pictures)
    assert torch.equal(drawing.decode(codes[1:2], [META]), pictures[1:2])


def test_loaded_again_it_draws_the_same_and_with_another_seed_it_does_not(
    checkpoint, unclip_folder, drawing, reference
):
    codes = reference["ids"][:1, None]
    again = Seed2(checkpoint, diffusion=unclip_folder, steps=2)
    assert torch.equal(again.decode(codes, [META]), drawing.decode(codes, [META]))
    again.seed = 1
    assert not torch.equal(again.decode(codes, [META]), drawing.decode(codes, [META]))


def test_a_seed_draws_the_same_picture_in_either_mode_and_the_meta_has_it(drawing, reference):
    codes = reference["ids"][:2, None]
    meta = [drawing.default_meta() for _ in codes]
    facts = {"scheduler": "DDIMScheduler", "steps": 2, "guidance_scale": 10.0, "dtype": "float32"}
    assert meta[0] == META | {"diffusion": facts | {"seed": 0}}
    first = drawing.decode(codes, meta)
    assert first.shape == (2, 3, *drawing.unclip.size)
    assert torch.equal(drawing.decode(codes, meta, "diffusion"), first)
    other = META | {"diffusion": facts | {"seed": 7}}
    mixed = drawing.decode(codes, [other, meta[1]])
    assert not torch.equal(mixed[0], first[0]) and torch.equal(mixed[1], first[1])


@pytest.mark.parametrize(
    ("drawn", "told"),
    [
        ({"steps": 3}, "meta says steps 3, but this codec draws with 2"),
        ({"scheduler": "EulerDiscreteScheduler"}, "this codec draws with 'DDIMScheduler'"),
        ({"seed": -1}, "seed must be a whole number"),
        ([], "must be what decides an image"),
    ],
)
def test_a_meta_that_would_be_drawn_otherwise_is_refused(drawing, reference, drawn, told):
    with pytest.raises(CodecError, match=re.escape(told)):
        drawing.decode(reference["ids"][:1, None], [META | {"diffusion": drawn}])


def test_embeddings_that_cannot_be_drawn_are_refused(drawing):
    for wrong, told in ((torch.zeros(2, 5), r"got \[2, 5\]"), (torch.full((1, 32), math.nan), "with NaN")):
        with pytest.raises(CodecError, match=told):
            drawing.unclip.images(wrong, [0] * len(wrong))


def test_the_vision_encoder_of_the_pipeline_is_not_needed(tmp_path, unclip_folder):
    copytree(
        unclip_folder, tmp_path / "without", ignore=ignore_patterns("image_encoder", "feature_extractor")
    )
    embeddings = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    whole, without_it = (
        Unclip(folder, steps=1).images(embeddings, [0]) for folder in (unclip_folder, tmp_path / "without")
    )
    assert torch.equal(whole, without_it)


def test_a_pipeline_with_a_weight_missing_is_refused(tmp_path, unclip_folder):
    folder = copytree(unclip_folder, tmp_path / "incomplete")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(without(load_file(path), "conv_in.weight"), path)
    with pytest.raises(CodecError, match=r"1 weights are missing: conv_in.weight"):
        Unclip(folder)


def test_a_pipeline_with_a_pickle_that_would_run_code_is_refused(tmp_path, unclip_folder):
    class Intruder:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "intruded"),)

    folder = copytree(unclip_folder, tmp_path / "hostile")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"weight": Intruder()}, folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(CodecError, match=r"refused"):
        Unclip(folder)
    assert not (tmp_path / "intruded").exists()


@pytest.mark.parametrize(
    "part",
    [
        {"scheduler": ["evil", "E"]},
        {"scheduler": ["pipeline", "E"]},
        {"_class_name": ["evil", "E"]},
        {"tokenizer": ["../evil", "E"]},
    ],
)
def test_code_that_a_pipeline_names_is_not_run(tmp_path, unclip_folder, part):
    folder = copytree(unclip_folder, tmp_path / "hostile")
    for name in ("scheduler/evil.py", "evil.py", "pipeline.py"):
        (folder / name).write_text(f"import os; os.mkdir({str(tmp_path / 'intruded')!r})")
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | part))
    with pytest.raises(
        CodecError, match=r"model_index.json: .* code that comes with a checkpoint is not run"
    ):
        pipeline_folder(folder)
    with pytest.raises(CodecError):
        Unclip(folder)
    assert not (tmp_path / "intruded").exists()


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path, checkpoint, unclip_folder):
    with pytest.raises(CodecError, match=r"not a Stable unCLIP pipeline .* no model_index.json"):
        Unclip(tmp_path)
    narrow = save_small_unclip(tmp_path / "narrow", embedding=16)
    with pytest.raises(CodecError, match=r"width 16, but SEED-2 gives 32"):
        Seed2(checkpoint, diffusion=narrow)


@pytest.mark.slow  # a process of its own; the cache is the hub library's
def test_a_hub_id_is_read_from_the_cache_without_a_network(tmp_path, unclip_folder):
    repository = tmp_path / "hub" / "models--somebody--unclip"
    copytree(unclip_folder, repository / "snapshots" / "0123abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    code = (
        "import sys; from uti.zoo.decoders.unclip import pipeline_folder; "
        "print(*[pipeline_folder(model) for model in sys.argv[1:]])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "somebody/unclip"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HOME": str(tmp_path),
        },
    )
    assert run.stdout.strip() == str(repository / "snapshots" / "0123abc"), run.stderr[-2000:]


def test_it_moves_between_devices_after_drawing(drawing, reference):
    codes = reference["ids"][:1, None]
    first = drawing.decode(codes, [META])
    assert torch.equal(drawing.to("cpu").decode(codes, [META]), first)


# The whole system: a tokenizer as Qwen's, SEED-2 drawn by diffusion, and EnCodec at 48 kHz


@pytest.mark.slow  # a whole audit; each codec of it, with the same options, is tested by itself
def test_the_shipped_config_works_with_its_paths_filled_in(tmp_path, uti_here, unclip_folder, reference):
    """Small classes with codebooks of the published sizes: text, 64 specials, 8,192, 4 × 1,024, as the
    earlier system laid its ids out.
    """
    shipped = yaml.safe_load(packaged("assets/multimodal.yaml").read_text())
    assert shipped["audio"]["options"] == {"n_codebooks": 4} and shipped["clip_seconds"] == 10
    seed = Seed2Network(
        Seed2Config(**reference["config"] | {"codebook_size": 8192, "image_down": (16, 8, 4)})
    )
    vision, quantiser = published(liven(seed))
    write(tmp_path / "seed2", reference, vision, quantiser, codebook_size=8192, image_down=[16, 8, 4])
    small = {
        "num_filters": 2,
        "hidden_size": 8,
        "codebook_dim": 8,
        "num_lstm_layers": 1,
        "codebook_size": 1024,
    }
    sound = hf.EncodecConfig(**STEREO, **small, sampling_rate=48_000, target_bandwidths=[6.0, 24.0])
    liven(hf.EncodecModel(sound).eval()).save_pretrained(tmp_path / "encodec")
    TEXT["byte_level_bpe"]().save_pretrained(tmp_path / "qwen")
    shipped["text"]["codec"], shipped["audio"]["codec"] = "./qwen", "./encodec"
    shipped["image"]["options"] |= {"diffusion": str(unclip_folder), "steps": 2}
    (tmp_path / "uti.yaml").write_text(yaml.safe_dump(shipped | {"clip_seconds": 1}))
    for name in ("coffee.png", "speech.wav"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(packaged(f"assets/{name}").read_bytes())
    how = ("--smoke-assets", "mine", "--decode-mode", "diffusion", "--outdir", "out")
    run = uti_here("audit", "--config", "uti.yaml", *how)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    n_text = len(hf.AutoTokenizer.from_pretrained(tmp_path / "qwen"))
    ranges = [(r["name"], r["size"]) for r in report["token_space"]["ranges"]]
    books = [(f"AUDIO_CB{k}", 1024) for k in range(4)]
    assert ranges == [("TEXT", n_text), ("SPECIAL", 64), ("IMAGE", 8192), *books]
    assert report["decoders"]["image"] == "diffusion" and report["audio_token_count"] == 4 * (2 * 150 + 2)
    item = next(i for i in report["items"] if i["modality"] == "image")
    assert item["meta"]["codec_meta"]["diffusion"]["seed"] == 0
