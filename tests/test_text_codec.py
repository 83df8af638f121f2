"""The embedded tokenizer of text: what it promises, and where a long text may be cut."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from uti.codecs.base import CodecError
from uti.codecs.embedded import text
from uti.codecs.embedded.text import WEIGHTS, EmbeddedText
from uti.files import digest

LINES = "".join(f"line {i}, of a text\n" for i in range(40))


def test_it_says_what_it_promises():
    codec = EmbeddedText()
    assert codec.spec.to_dict() == {
        "modality": "text",
        "name": "embedded-text",
        "codebook_sizes": [4096],
        "version": "1",
        "licence": "Apache-2.0",
        "source": "in the package; trained on the docstrings of Python's standard library",
        "weights_sha256": digest(WEIGHTS),
        "lossless": True,
        "invariant": True,
        "idempotent": True,
        "dtype": "int64",
        "decode_modes": ["deterministic"],
        "notes": [],
    }
    assert codec.runtime_codebook_sizes() == (4096,)


def test_a_text_is_cut_where_a_line_ends_that_no_token_spans(monkeypatch):
    monkeypatch.setattr(text, "PIECE", 10)
    assert list(text._pieces("0123456789")) == ["0123456789"]  # no longer than a piece
    assert list(text._pieces("0123456789\nb")) == ["0123456789\n", "b"]
    assert list(text._pieces("0123456\nabc\ndefghijk")) == [
        "0123456\nabc\n",
        "defghijk",
    ]
    assert list(text._pieces("0123456789\n\nb\n c")) == [
        "0123456789\n\nb\n c"
    ]  # white space goes with what follows
    assert list(text._pieces("x" * 30)) == ["x" * 30] and list(text._pieces("")) == [""]
    assert "".join(text._pieces(LINES)) == LINES and len(list(text._pieces(LINES))) == 40


def with_prefix_space(tokenizer):
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)


def with_a_normaliser(tokenizer):
    tokenizer.normalizer = normalizers.Prepend("_")


def with_a_token_across_lines(tokenizer):
    tokenizer.add_tokens([AddedToken("text\nline", normalized=False)])


def with_a_token_before_each_text(tokenizer):
    tokenizer.post_processor = TemplateProcessing(single="! $A", special_tokens=[("!", 0)])


def as_it_is(tokenizer):
    pass


@pytest.mark.parametrize(
    ("change", "cut"),
    [
        (as_it_is, True),
        (with_a_token_before_each_text, True),
        (with_prefix_space, False),
        (with_a_normaliser, False),
        (with_a_token_across_lines, False),
    ],
)
def test_a_tokenizer_that_looks_beyond_lines_gets_a_text_whole(change, cut, tmp_path, monkeypatch):
    tokenizer = Tokenizer.from_file(str(WEIGHTS))
    change(tokenizer)
    tokenizer.save(str(tmp_path / "mine.json"))
    codec, given = EmbeddedText(tmp_path / "mine.json"), []
    assert codec.spec.codebook_sizes == (tokenizer.get_vocab_size(),)
    assert codec.spec.weights_sha256 == digest(tmp_path / "mine.json")
    monkeypatch.setattr(text, "PIECE", 50)
    pieces = text._pieces
    monkeypatch.setattr(text, "_pieces", lambda whole: given.append(whole) or pieces(whole))
    codes, (meta,) = codec.encode([LINES])
    wanted = tokenizer.encode(LINES, add_special_tokens=False).ids
    assert codes[0, 0].tolist() == wanted and meta == {"n_positions": len(wanted)}
    assert bool(given) is cut


def test_texts_of_a_batch_keep_their_own_ids():
    codec = EmbeddedText()
    texts = ["", "a", LINES * 3, "naïve 漢字"]
    codes, metas = codec.encode(texts)
    for row, meta, whole in zip(codes, metas, texts, strict=True):
        alone = codec.encode([whole]).codes[0, 0].tolist()
        assert row[0, : meta["n_positions"]].tolist() == alone and not row[0, meta["n_positions"] :].any()
    assert codec.decode(codes, metas) == texts


def test_what_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(CodecError, match=r"mine.json: not a tokenizer file \("):
        EmbeddedText(tmp_path / "mine.json")
