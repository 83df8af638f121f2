"""Which codec made these ids: asked wherever ids travel, of two codecs that differ in one weight."""

import copy
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from language import SPACE, language
from safetensors.torch import load_file, save_file
from small_codecs import TwoWays

from uti.audit.baseline import load_baseline
from uti.audit.plan import load_smoke
from uti.audit.record import AuditError
from uti.codecs.checkpoints import load_codec
from uti.codecs.embedded.audio import WEIGHTS, EmbeddedAudio
from uti.codecs.embedded.image import EmbeddedImage, EmbeddedImage1
from uti.codecs.embedded.text import EmbeddedText
from uti.codecs.identity import fingerprint_of, identity_of, with_fingerprint
from uti.config import parse_config
from uti.lm.data import LMError, load_dataset, make_dataset, save_dataset
from uti.lm.train import check_checkpoint, seal_checkpoint
from uti.modalities.base import Audio, Sample
from uti.modalities.probes import noise
from uti.space import SpaceError, diff_spaces, load_space, space_hash
from uti.tokens.export import export_tokenizer
from uti.tokens.tokenizer import TokenizerError, Tokens, UnifiedTokenizer

EXAMPLE = Path(__file__).parents[1] / "reports" / "embedded"
OTHER_WEIGHTS = r"audio: weights [0-9a-f]{16}… here, [0-9a-f]{16}… there"


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory):
    "Weights of embedded-audio with another first number."
    weights, path = load_file(WEIGHTS), tmp_path_factory.mktemp("other") / "other.safetensors"
    weights[min(weights)].view(-1)[0] += 1
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def one():
    return UnifiedTokenizer(audio="embedded-audio")


@pytest.fixture(scope="module")
def other(other_weights):
    return UnifiedTokenizer(audio=EmbeddedAudio(weights=other_weights))


@pytest.fixture(scope="module")
def wave():
    return Audio(noise(2400, 3, held=5).float()[None], 24000)


def config(weights):
    audio = {"codec": "embedded-audio", "options": {"weights": str(weights)}}
    return parse_config({"text": "embedded-text", "audio": audio})


def test_ranges_and_hash_do_not_tell_two_codecs_apart_and_the_identity_does(one, other):
    assert one.space == other.space and space_hash(one.space) == space_hash(other.space)
    (line,) = diff_spaces(one.space, other.space)
    assert re.fullmatch(OTHER_WEIGHTS, line)


def test_version_1_of_the_embedded_audio_codec_keeps_its_ids():
    identity = with_fingerprint(load_codec("embedded-audio@1"))
    assert (identity["family"], identity["version"]) == ("embedded-audio", "1")
    assert identity["weights"].startswith("5aa22e477c869ba1")
    assert identity["fingerprint"].startswith("af8aeebcd990fa8e")


def test_ids_of_an_older_version_name_the_codec_that_reads_them():
    tokens = UnifiedTokenizer(image=EmbeddedImage1(64)).encode_image(
        EXAMPLE.parents[1] / "uti/assets/coffee.png"
    )
    reads = "version '1', here '2'.*; the codec 'embedded-image@1' reads them"
    with pytest.raises(TokenizerError, match=reads):
        UnifiedTokenizer(image=EmbeddedImage(64)).decode("image", tokens)


def test_a_version_is_not_named_where_its_weights_were_others(one, other, wave):
    with pytest.raises(TokenizerError, match="another codec made these ids") as refused:
        one.decode("audio", other.encode_audio(wave))
    assert "reads them" not in str(refused.value)


def test_ids_of_another_codec_are_not_decoded_unless_that_is_allowed(one, other, wave):
    tokens = one.encode_audio(wave)
    with pytest.raises(TokenizerError, match=r"another codec made these ids: weights '[0-9a-f]{16}', here"):
        other.decode("audio", tokens)
    allowed = UnifiedTokenizer(other.codecs, allow_other_codec=True)
    assert allowed.decode("audio", tokens).wave.shape == wave.wave.shape
    unknown = tokens._replace(meta={k: v for k, v in tokens.meta.items() if k != "identity"})
    with pytest.raises(TokenizerError, match="does not say which codec"):
        one.decode("audio", unknown)


def test_the_command_refuses_and_allows(uti_here, other_weights, one, wave, tmp_path):
    one.encode_audio(wave).save(tmp_path / "ids.safetensors")
    (tmp_path / "other.yaml").write_text(
        f"audio: {{codec: embedded-audio, options: {{weights: {other_weights}}}}}"
    )
    decode = ("decode", "ids.safetensors", "--out", "a.wav", "--config", "other.yaml")
    refused = uti_here(*decode)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "another codec made these ids: weights" in refused.stderr and not (tmp_path / "a.wav").exists()
    assert uti_here(*decode, "--allow-other-codec").returncode == 0 and (tmp_path / "a.wav").is_file()


@pytest.mark.parametrize("save", [UnifiedTokenizer.save_pretrained, export_tokenizer])
def test_a_saved_tokenizer_notices_other_weights_in_its_folder(save, other_weights, tmp_path):
    tokenizer = UnifiedTokenizer.from_config(config(WEIGHTS))
    save(tokenizer, tmp_path / "saved")
    assert load_space(tmp_path / "saved" / "token_space.json").codecs["audio"]["fingerprint"]
    UnifiedTokenizer.from_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "audio-weights.safetensors").write_bytes(other_weights.read_bytes())
    with pytest.raises(SpaceError, match=f"its codecs make other ids .*{OTHER_WEIGHTS}"):
        UnifiedTokenizer.from_pretrained(tmp_path / "saved")
    allowed = UnifiedTokenizer.from_pretrained(tmp_path / "saved", allow_other_codec=True)
    tokens = tokenizer.encode_audio(torch.zeros(1, 640), 24000)
    assert allowed.decode("audio", tokens).rate == 24000


def test_a_dataset_belongs_to_the_codecs_that_made_it(one, other, wave, tmp_path):
    samples = [Sample("a.wav", "audio", wave)]
    dataset = make_dataset(one, samples, 2, text_tokens=8, audio_positions=4)
    save_dataset(dataset, tmp_path / "data")
    assert load_dataset(tmp_path / "data", one.space).space.codecs["audio"]["fingerprint"]
    with pytest.raises(LMError, match=f"belong to another token space or codec: {OTHER_WEIGHTS}"):
        load_dataset(tmp_path / "data", other.space)


def test_a_checkpoint_belongs_to_the_codecs_of_its_dataset(one, other, tmp_path):
    ours, theirs = (replace(SPACE, codecs=tokenizer.space.codecs) for tokenizer in (one, other))
    dataset = language(4)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    seal_checkpoint(tmp_path, replace(dataset, grammar=replace(dataset.grammar, space=ours)))
    check_checkpoint(tmp_path, ours)
    with pytest.raises(
        LMError, match=f"{OTHER_WEIGHTS}; load it all the same with --allow-other-token-space"
    ):
        check_checkpoint(tmp_path, theirs)
    check_checkpoint(tmp_path, theirs, allow_other_space=True)


def test_a_baseline_and_a_smoke_report_belong_to_their_codecs(other):
    with pytest.raises(AuditError, match=f"another token space or codec .*{OTHER_WEIGHTS}"):
        load_baseline(EXAMPLE / "report.json", whole(other), [])
    with pytest.raises(AuditError, match=f"smoke tests of other codecs .*{OTHER_WEIGHTS}"):
        load_smoke(EXAMPLE / "smoke.json", whole(other))
    smaller = UnifiedTokenizer({"text": EmbeddedText(), "image": EmbeddedImage(64), "audio": EmbeddedAudio()})
    assert load_smoke(EXAMPLE / "smoke.json", smaller).passed  # an id means the same in a smaller image


def whole(tokenizer):
    return UnifiedTokenizer({"text": EmbeddedText(), "image": EmbeddedImage(), **tokenizer.codecs})


def test_the_same_weights_that_behave_otherwise_are_told_by_the_fingerprint(one, tmp_path):
    UnifiedTokenizer.save_pretrained(one, tmp_path)
    rounded = EmbeddedAudio()
    rounded.encoder.to(torch.bfloat16).double()
    assert identity_of(rounded) == identity_of(one.codec("audio"))
    (line,) = diff_spaces(
        UnifiedTokenizer(audio=rounded).space_with_fingerprints(), load_space(tmp_path / "token_space.json")
    )
    assert line.startswith(
        "audio: the same codec and weights behave otherwise here: fixed signals have other"
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"dtype": "bfloat16"}, "audio: dtype float64 here, bfloat16 there"),
        ({"version": "2"}, "audio: version 1 here, 2 there"),
        ({"hop_length": 640}, "audio: hop_length 320 here, 640 there"),
        ({"licence": "MIT", "notes": ("of another",), "invariant": False}, None),
    ],
)
def test_what_changes_ids_is_in_the_identity_and_remarks_are_not(one, changed, told):
    codec = copy.copy(one.codec("audio"))
    codec.spec = replace(codec.spec, **changed)
    assert diff_spaces(one.space, UnifiedTokenizer(audio=codec).space) == ([told] if told else [])


def test_a_codec_without_weights_is_told_by_its_code():
    class Inverted(TwoWays):
        def _encode(self, signals, lengths):
            return super()._encode(1 - signals, lengths)

    here, there = (identity_of(codec) for codec in (TwoWays(), Inverted()))
    assert here["code"] != there["code"] and not here["weights"]
    assert identity_of(TwoWays())["sha256"] == here["sha256"]
    assert fingerprint_of(TwoWays()) != fingerprint_of(Inverted())


def test_a_codec_that_cannot_be_hashed_has_an_identity_too():
    @dataclass
    class Plain(TwoWays):
        level: int = 3

    assert UnifiedTokenizer(image=Plain()).space_with_fingerprints().codecs["image"]["code"]


def test_another_process_says_the_same(uti_here, one):
    identity = with_fingerprint(one.codec("audio"))
    printed = uti_here("codecs", "embedded-audio").stdout
    assert identity["sha256"] in printed and identity["fingerprint"] in printed


def test_a_token_file_keeps_whose_ids_it_holds(one, wave, tmp_path):
    one.encode_audio(wave).save(tmp_path / "ids.safetensors")
    meta = Tokens.load(tmp_path / "ids.safetensors").meta
    assert meta["identity"]["weights"] == identity_of(one.codec("audio"))["weights"][:16]
