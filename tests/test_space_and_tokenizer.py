"""Ids: their ranges, their order, their hashes, and the way back."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers

from uti.codecs.base import CodecError
from uti.codecs.embedded import text as embedded_text
from uti.codecs.embedded.image import WEIGHTS
from uti.codecs.embedded.text import EmbeddedText
from uti.config import load_config
from uti.modalities.audio import read_audio
from uti.modalities.base import MediaError
from uti.space import (
    SpaceError,
    TokenSpace,
    canonical_json,
    diff_spaces,
    from_dict,
    load_space,
    save_space,
    space_hash,
    to_codes,
    to_dict,
    to_ids,
    token_hash,
)
from uti.tokens.sequences import SORT_KEYS, flatten, unflatten
from uti.tokens.tokenizer import TokenizerError, UnifiedTokenizer

spaces = st.builds(
    TokenSpace,
    text=st.integers(1, 200_000),
    image=st.lists(st.integers(1, 70_000), max_size=4).map(tuple),
    audio=st.lists(st.integers(1, 5000), max_size=33).map(tuple),
)


@given(spaces)
def test_ranges_are_contiguous_and_ids_have_one_owner(space):
    edge = 0
    for r in space.ranges.values():
        assert r.start == edge
        edge = r.stop
    assert edge == space.vocab_size_total
    assert [space.range_of(r.start) for r in space.ranges.values()] == list(space.ranges)
    assert from_dict(json.loads(json.dumps(to_dict(space)))) == space


@settings(max_examples=50, deadline=None)
@given(spaces, st.integers(0, 2**31), st.booleans())
def test_codes_come_back(space, seed, as_torch):
    rng = np.random.default_rng(seed)
    for modality, sizes in (("text", (space.text,)), ("image", space.image), ("audio", space.audio)):
        if sizes:
            codes = np.stack([rng.integers(0, n, (2, 7)) for n in sizes], 1)
            codes = torch.from_numpy(codes) if as_torch else codes
            ids = to_ids(space, modality, codes)
            assert type(ids) is type(codes) and (to_codes(space, modality, ids) == codes).all()
            with pytest.raises(SpaceError, match=r"is outside"):
                to_codes(space, modality, ids + space.vocab_size_total)


def test_the_hash_is_over_canonical_json_and_little_endian_ids():
    space = TokenSpace(10, (4,), (2, 2))
    text = json.dumps(to_dict(space), sort_keys=True, separators=(",", ":"))
    assert space_hash(space) == hashlib.sha256(text.encode()).hexdigest()
    assert token_hash([1, 256]) == hashlib.sha256(bytes([1, *[0] * 7, 0, 1, *[0] * 6])).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["ranges"].reverse(),
        lambda d: d["ranges"].pop(0),
        lambda d: d["special_tokens"].popitem(),
        lambda d: d.update(vocab_size_total=1),
        lambda d: d.pop("ranges"),
        lambda d: d["ranges"][0].update(size="8"),
    ],
)
def test_an_altered_space_is_refused(change):
    data = to_dict(TokenSpace(10, (4,), (2, 2)))
    change(data)
    with pytest.raises(SpaceError, match=r"not a token space"):
        from_dict(data)


def test_a_file_and_its_hash_go_together(tmp_path):
    save_space(TokenSpace(10), tmp_path / "token_space.json")
    assert load_space(tmp_path / "token_space.json") == TokenSpace(10)
    save_space(TokenSpace(11), tmp_path / "other.json")
    (tmp_path / "token_space.json").write_text((tmp_path / "other.json").read_text())
    with pytest.raises(SpaceError, match=r"one of the two files was changed"):
        load_space(tmp_path / "token_space.json")


@given(st.sampled_from(list(SORT_KEYS)), st.integers(1, 12), st.integers(0, 40))
def test_serialisations_invert_exactly(name, n_codebooks, n_positions):
    grid = torch.arange(n_codebooks * n_positions).view(n_codebooks, n_positions)
    line = flatten(grid, name)
    assert sorted(line.tolist()) == list(range(grid.numel()))
    assert torch.equal(unflatten(line, name, n_codebooks), grid)


def test_delay_reads_each_codebook_one_frame_later():
    grid = torch.tensor([[0, 1, 2], [10, 11, 12], [20, 21, 22]])
    assert flatten(grid, "delay").tolist() == [0, 1, 10, 2, 11, 20, 12, 21, 22]


@pytest.fixture(scope="module")
def tokenizer():
    return UnifiedTokenizer.from_config()


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode_text(tokenizer.encode_text(text).ids) == text


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=4), seed=st.integers(0, 100))
def test_sounds_are_the_same_alone_and_together(tokenizer, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    waves = [(torch.rand(1, n, generator=generator) - 0.5, 24_000) for n in lengths]
    together = tokenizer.encode_audios(waves)
    for (wave, rate), tokens in zip(waves, together, strict=True):
        alone = tokenizer.encode_audio(wave, rate)
        assert torch.equal(alone.ids, tokens.ids) and alone.meta == tokens.meta
        assert tokenizer.decode_audio(*tokens).wave.shape == wave.shape
    decoded = tokenizer.decode_audios([t.ids for t in together], [t.meta for t in together])
    assert [audio.wave.shape[1] for audio in decoded] == lengths


@pytest.mark.parametrize("name", ["coffee.png", "speech.wav"])
def test_a_file_is_encoded_under_another_default_device(name, tokenizer, assets):
    encode = tokenizer.encode_image if name.endswith("png") else tokenizer.encode_audio
    here = encode(assets / name)
    with torch.device("meta"):
        assert torch.equal(encode(assets / name).ids, here.ids)


def test_files_sounds_and_waves_are_the_same(tokenizer, assets):
    sound = read_audio(assets / "speech.wav")
    ways = [
        tokenizer.encode_audio(assets / "speech.wav"),
        tokenizer.encode_audio(sound),
        tokenizer.encode_audio(sound.wave, sound.rate),
    ]
    assert all(torch.equal(way.ids, ways[0].ids) and way.meta == ways[0].meta for way in ways)
    assert tokenizer.decode_audio(*ways[0]).rate == 24_000
    with pytest.raises(MediaError, match=r"means nothing without its sample rate"):
        tokenizer.encode_audio(sound.wave)
    with pytest.raises(MediaError, match=r"absent.wav: no such file"):
        tokenizer.encode_audio(assets / "absent.wav")


def test_digital_silence_stays_silent(tokenizer):
    tokens = tokenizer.encode_audio(torch.zeros(1, 24_000), 24_000)
    assert tokenizer.decode_audio(*tokens).wave.abs().max() < 1e-3


def test_meta_is_json(tokenizer):
    for tokens in (
        tokenizer.encode_text("x"),
        tokenizer.encode_image(np.zeros((9, 9), np.uint8)),
        tokenizer.encode_audio(np.zeros(10, np.float32), 8000),
    ):
        assert json.loads(json.dumps(tokens.meta)) == tokens.meta


def test_a_missing_modality_is_named(tokenizer):
    only_text = UnifiedTokenizer({"text": tokenizer.codecs["text"]})
    with pytest.raises(TokenizerError, match=r"no codec for 'image'; it has text"):
        only_text.encode_image(np.zeros((9, 9), np.uint8))
    with pytest.raises(TokenizerError, match=r"is for text, not for audio"):
        UnifiedTokenizer({"audio": tokenizer.codecs["text"]})


def test_only_what_a_config_names_can_be_saved(tokenizer, tmp_path):
    with pytest.raises(TokenizerError, match=r"register them"):
        UnifiedTokenizer(tokenizer.codecs).save_pretrained(tmp_path / "new")
    tokenizer.save_pretrained(tmp_path / "new")
    assert UnifiedTokenizer.from_pretrained(tmp_path / "new").space == tokenizer.space


def test_a_path_in_a_config_is_read_from_its_folder_and_the_weights_travel(tmp_path, monkeypatch):
    (tmp_path / "project" / "w").mkdir(parents=True)
    shutil.copy(WEIGHTS, tmp_path / "project" / "w" / "x.safetensors")
    (tmp_path / "project" / "uti.yaml").write_text(
        "image: {codec: embedded-image, options: {weights: w/x.safetensors}}"
    )
    for here, path in (("project", "uti.yaml"), (".", "project/uti.yaml")):
        monkeypatch.chdir(tmp_path / here)
        UnifiedTokenizer.from_config(path).save_pretrained("saved")
        shutil.move("saved", tmp_path / f"moved_from_{here.strip('.')}")
    shutil.rmtree(tmp_path / "project")
    monkeypatch.chdir("/")
    for folder in ("moved_from_", "moved_from_project"):
        assert UnifiedTokenizer.from_pretrained(tmp_path / folder).space.image == (65_536,)


def test_a_word_in_a_config_is_no_folder_that_has_its_name_by_chance(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "uti.yaml").write_text("image: {codec: some/model, options: {subfolder: vae}}")
    assert load_config(tmp_path / "uti.yaml").image.options == {"subfolder": "vae"}


def test_an_empty_batch_decodes_to_nothing(tokenizer):
    assert tokenizer.decode_batch("image", [], []) == []


@pytest.mark.parametrize(
    "sizes", [{}, {"text": 0}, {"text": -1}, {"image": (0,)}, {"text": 9, "audio": (4, 0)}, {"image": (2.0,)}]
)
def test_a_space_needs_positive_whole_sizes(sizes):
    with pytest.raises(SpaceError, match="needs positive sizes"):
        TokenSpace(**sizes)


def test_what_is_hashed_and_written_is_this_to_the_byte(tmp_path):
    "Files and hashes of others hold these; a change of one is a new version."
    assert canonical_json({"é": [1, None], "a": 1.5}) == '{"a":1.5,"\\u00e9":[1,null]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))
    wanted = hashlib.sha256((5).to_bytes(8, "little") + (300).to_bytes(8, "little")).hexdigest()
    assert all(token_hash(torch.tensor([5, 300], dtype=d)) == wanted for d in (torch.int16, torch.int64))
    space = TokenSpace(10, [4], [2, 2])
    assert space == TokenSpace(10, (4,), (2, 2)) and hash(space)
    starts = {
        "TEXT": (0, 10),
        "SPECIAL": (10, 64),
        "IMAGE": (74, 4),
        "AUDIO_CB0": (78, 2),
        "AUDIO_CB1": (80, 2),
    }
    data = to_dict(space)
    assert list(data) == ["schema_version", "vocab_size_total", "ranges", "special_tokens"]
    assert data["schema_version"] == 1 and data["vocab_size_total"] == 82
    assert data["ranges"] == [{"name": n, "start": a, "size": b} for n, (a, b) in starts.items()]
    save_space(space, tmp_path / "space.json")
    assert (tmp_path / "space.json").read_text() == json.dumps(data, indent=2) + "\n"
    assert (tmp_path / "space.sha256").read_text() == space_hash(space) + "\n"
    with pytest.raises(SpaceError, match="the hash of a token space has such a name"):
        save_space(space, tmp_path / "space.sha256")


def test_what_differs_and_what_is_outside_is_named():
    space = TokenSpace(10, (4,), (2, 2))
    assert diff_spaces(space, space) == []
    assert diff_spaces(space, TokenSpace(10, (4,), (3,))) == [
        "AUDIO_CB0: [78, 80), 2 ids here, [78, 81), 3 ids there",
        "AUDIO_CB1: [80, 82), 2 ids here, absent there",
    ]
    for array in (torch.tensor, np.array):
        ids = to_ids(space, "audio", array([[0, 1], [1, 0]]))
        assert type(ids) is type(array([0])) and ids.tolist() == [[78, 79], [81, 80]]
        codes = to_codes(space, "audio", ids)
        assert type(codes) is type(ids) and codes.tolist() == [[0, 1], [1, 0]]
        with pytest.raises(SpaceError) as outside:
            to_ids(space, "audio", array([[0, 1], [0, 9]]))
        assert str(outside.value).startswith(
            "code 9 at position 1 of codebook 1 is outside codebook 1 of audio"
        )
        with pytest.raises(SpaceError) as outside:
            to_codes(space, "audio", array([[78, 79], [80, 79]]))
        assert str(outside.value).startswith(
            "id 79 at position 1 of codebook 1 is outside AUDIO_CB1, [80, 82)"
        )


@pytest.mark.parametrize("shape", [(), (2,), (1, 3), (3, 3), (2, 3, 4)])
def test_codes_and_ids_have_a_row_a_codebook(shape):
    for convert in (to_ids, to_codes):
        with pytest.raises(SpaceError, match=r"must be \[\.\.\., 2 codebooks, n_positions\]"):
            convert(TokenSpace(10, (4,), (2, 2)), "audio", torch.zeros(shape, dtype=torch.int64))


CODEC = EmbeddedText()


def test_one_string_is_no_batch_of_texts():
    for signals in ("one string", ["one", 2], [b"bytes"]):
        with pytest.raises(CodecError, match="a list of str"):
            CODEC.encode(signals)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab\n\r\t '1é.\x1c\u00a0\u2003"), max_size=60), st.integers(1, 9))
def test_a_long_text_has_the_same_ids_in_pieces(text, piece):
    whole = CODEC.tokenizer.encode(text, add_special_tokens=False).ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded_text, "PIECE", piece)
        assert CODEC.encode([text]).codes[0, 0].tolist() == whole


def test_a_tokenizer_with_rules_of_its_own_gets_a_text_whole(tmp_path):
    "One that joins lines would give other ids for the pieces of a text."
    tokenizer = Tokenizer.from_file(str(embedded_text.WEIGHTS))
    tokenizer.normalizer = normalizers.Replace("\n", "")
    tokenizer.save(str(tmp_path / "joins.json"))
    codec, text = EmbeddedText(tmp_path / "joins.json"), "ab\n" * 50_000
    assert codec.encode([text]).codes[0, 0].tolist() == codec.tokenizer.encode(text).ids
