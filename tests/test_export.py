"""The exported tokenizer: every id of the space, exactly; texts and mixed sequences give their ids back; what
cannot be exact is refused, and nothing is half-written.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import transformers as hf
from checkpoints import TEXT, save
from hypothesis import given, settings
from hypothesis import strategies as st
from small_codecs import Sized
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from uti.codecs.embedded.text import EmbeddedText
from uti.config import parse_config
from uti.modalities.text import PROBES
from uti.outdir import OutdirError
from uti.space import N_SPECIAL, SPECIAL_TOKENS, TokenSpace, load_space
from uti.tokens.export import FILES, ExportError, export_tokenizer, token_names
from uti.tokens.sequences import segment
from uti.tokens.tokenizer import UnifiedTokenizer
from uti.zoo.hf.text import HFText


def unified(text, image=(300, 16), audio=(20,) * 12):
    return UnifiedTokenizer({"text": text, "image": Sized("image", *image), "audio": Sized("audio", *audio)})


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """(a tokenizer with the space of the embedded codecs, the one exported from it as the library beneath
    transformers loads it, the folder)
    """
    tokenizer = unified(EmbeddedText(), image=(65536,), audio=(1024,) * 8)
    folder = export_tokenizer(tokenizer, tmp_path_factory.mktemp("export") / "embedded")
    return tokenizer, Tokenizer.from_file(str(folder / "tokenizer.json")), folder


BYTE_LEVEL = ("byte_level_bpe", "qwen")


@pytest.fixture(scope="module", params=BYTE_LEVEL)
def family(request, tmp_path_factory):
    "(a tokenizer whose text is of a checkpoint, the exported one as transformers loads it)"
    folder = tmp_path_factory.mktemp("family")
    tokenizer = unified(HFText(save(request.param, folder)))
    return tokenizer, hf.AutoTokenizer.from_pretrained(export_tokenizer(tokenizer, folder / "out"))


def rewritten(folder, change):
    "An `HFText` of a byte-level BPE whose tokenizer.json `change` has altered."
    path = save("byte_level_bpe", folder) / "tokenizer.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return HFText(path)


def added(token_id, content, **flags):
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    } | flags


# Names and ids


def test_names_are_one_to_an_id_and_equally_long_in_a_range():
    for space in (
        TokenSpace(text=5, image=(65536,), audio=(1024,) * 8),
        TokenSpace(text=5, image=(300, 16), audio=(20,) * 12),
        TokenSpace(text=5, audio=(1,)),
    ):
        names = token_names(space)
        assert len(names) == len(set(names)) == space.vocab_size_total - space.text
        for name, ids in space.ranges.items():
            own = [names[i - space.text] for i in ids if name != "TEXT" and i not in space.special.values()]
            assert len({len(n) for n in own}) <= 1 and own == sorted(own)
        assert (
            names[: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS) and names[N_SPECIAL - 1] == "<|special_63|>"
        )


def test_every_id_of_the_embedded_space(embedded):
    tokenizer, exported, folder = embedded
    vocabulary, ranges = exported.get_vocab(), tokenizer.space.ranges
    assert len(vocabulary) == tokenizer.space.vocab_size_total == 4096 + 64 + 65536 + 8 * 1024
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert all(vocabulary[token] == i for token, i in tokenizer.space.special.items())
    assert all(vocabulary[f"<|special_{i}|>"] == ranges["SPECIAL"][i] for i in range(10, 64))
    assert all(vocabulary[f"<|img_{i:05d}|>"] == ranges["IMAGE"][i] for i in range(65536))
    assert all(
        vocabulary[f"<|aud_{k}_{i:04d}|>"] == ranges[f"AUDIO_CB{k}"][i] for k in range(8) for i in range(1024)
    )
    assert exported.encode("".join(token_names(tokenizer.space))).ids == list(range(4096, len(vocabulary)))
    assert {p.name for p in folder.iterdir()} == set(FILES) - {"uti.yaml"} and load_space(
        folder / "token_space.json"
    ) == tokenizer.space
    assert all(
        not (t.lstrip or t.rstrip or t.single_word or t.normalized) and t.special
        for t in exported.get_added_tokens_decoder().values()
    )


def test_every_id_of_other_families(family):
    tokenizer, exported = family
    space, vocabulary = tokenizer.space, exported.get_vocab()
    assert len(exported) == space.vocab_size_total and sorted(vocabulary.values()) == list(
        range(len(exported))
    )
    assert tokenizer.codec("text").tokenizer.get_vocab().items() <= vocabulary.items()
    assert exported.convert_ids_to_tokens([space.ranges["IMAGE_CB1"][3], space.ranges["AUDIO_CB11"][7]]) == [
        "<|img_1_03|>",
        "<|aud_11_07|>",
    ]
    assert (exported.pad_token, exported.bos_token, exported.eos_token, exported.unk_token) == (
        "<|pad_mm|>",
        "<s>",
        "<|text_end|>",
        "<unk>",
    )


def test_texts_have_the_ids_of_encode_text_and_none_around_them(family):
    tokenizer, exported = family
    assert tokenizer.codec("text").tokenizer.encode("a")[0] == exported.bos_token_id, (
        "this tokenizer puts a token before a text"
    )
    for text in ("The five lazy jugs.", "", *PROBES.values()):
        assert (
            exported.encode(text) == exported(text)["input_ids"] == tokenizer.encode_text(text).ids.tolist()
        )
    assert exported.encode("a", "b") == [*exported.encode("a"), *exported.encode("b")]


# There and back


@st.composite
def documents(draw, space):
    "Texts that name no token, and runs of any ids that are not text, in turn."
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
        lambda text: "<|" not in text
    )
    others = st.lists(st.integers(space.text, space.vocab_size_total - 1), min_size=1, max_size=12)
    return draw(st.lists(st.tuples(texts, others), min_size=1, max_size=6))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ids_to_string_to_ids_is_the_identity(embedded, data):
    tokenizer, exported, _ = embedded
    ids, string = [], ""
    for text, others in data.draw(documents(tokenizer.space)):
        ids += [*tokenizer.encode_text(text).ids.tolist(), *others]
        string += text + "".join(map(exported.id_to_token, others))
    assert exported.decode(ids, skip_special_tokens=False) == string
    assert exported.encode(string).ids == ids


def test_other_families_give_mixed_sequences_back(family):
    tokenizer, exported = family
    parts = [
        tokenizer.encode_text("the lazy jugs").ids.tolist()
        if m == "text"
        else [r[0] for r in tokenizer.space.modality_ranges(m)]
        for m in ("text", "image", "audio", "text")
    ]
    ids = [
        i
        for m, part in zip(("text", "image", "audio", "text"), parts, strict=True)
        for i in segment(tokenizer.space, m, part).tolist()
    ]
    again = exported.encode(exported.decode(ids))
    assert again == ids


def test_ten_thousand_lists_give_themselves_back(family):
    "Of texts that come back alone, and of ids of images and audio between them."
    tokenizer, exported = family
    backend, rng, space = exported.backend_tokenizer, random.Random(0), tokenizer.space
    words = ["the", " lazy", " jugs", "!", " 12", "\n", "x", " of", " quick", "."]
    texts = ["".join(rng.choices(words, k=rng.randrange(1, 9))).strip() for _ in range(300)]
    encoded = [tokenizer.encode_text(text).ids.tolist() for text in texts]
    alone = [
        ids for ids in encoded if backend.encode(backend.decode(ids, skip_special_tokens=False)).ids == ids
    ]
    assert len(alone) > 100
    media = [i for m in ("image", "audio") for r in space.modality_ranges(m) for i in (r.start, r.stop - 1)]
    others = [*space.special.values(), *media]
    lists = []
    for _ in range(10_000):
        parts = [[*rng.choices(others, k=rng.randrange(1, 5)), *rng.choice(alone)] for _ in range(3)]
        lists.append([i for part in parts for i in part] + [rng.choice(others)])
    strings = backend.decode_batch(lists, skip_special_tokens=False)
    again = [found.ids for found in backend.encode_batch(strings, add_special_tokens=False)]
    assert [i for i, ids in enumerate(lists) if again[i] != ids] == []


@pytest.mark.parametrize("name", sorted(TEXT.keys() - BYTE_LEVEL))
def test_a_tokenizer_of_another_kind_is_refused(name, tmp_path):
    tokenizer = unified(HFText(save(name, tmp_path)))
    with pytest.raises(
        ExportError, match=r"only a byte-level BPE .*can be exported, and this is another \w+$"
    ):
        export_tokenizer(tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_text_that_names_a_token(embedded):
    tokenizer, exported, _ = embedded
    typed = "What is <|img_00042|> and <|text_end|>?"
    assert {tokenizer.space.ranges["IMAGE"][42], tokenizer.space.special["<|text_end|>"]} <= set(
        exported.encode(typed).ids
    )
    assert max(tokenizer.encode_text(typed).ids) < tokenizer.space.text
    exported.encode_special_tokens = True  # transformers' split_special_tokens, which knows the specials
    try:
        seen = set(exported.encode(typed).ids)
        assert tokenizer.space.special["<|text_end|>"] not in seen
        assert tokenizer.space.ranges["IMAGE"][42] in seen
    finally:
        exported.encode_special_tokens = False


def test_a_byte_level_bpe_has_the_names_in_its_vocabulary(embedded):
    "So the file is small, loads at once, and cuts no text otherwise."
    tokenizer, exported, folder = embedded
    assert len(exported.get_added_tokens_decoder()) == N_SPECIAL
    assert (folder / "tokenizer.json").stat().st_size < 3_000_000
    own = tokenizer.codec("text").tokenizer
    for path in sorted(Path(json.__file__).parent.parent.glob("*.py"))[:40]:
        lines = path.read_text(encoding="utf-8", errors="ignore").splitlines(keepends=True)
        plain, found = own.encode_batch(lines), exported.encode_batch(lines)
        assert [a.ids for a in plain] == [b.ids for b in found], path.name
    for around in (" {}", "!{}", "<{}", "{}|>", "a{}b", "{}{}"):
        string = around.replace("{}", "<|img_00001|>")
        texts = around.split("{}")
        expected = [*exported.encode(texts[0]).ids]
        for text in texts[1:]:
            expected += [tokenizer.space.ranges["IMAGE"][1], *exported.encode(text).ids]
        assert exported.encode(string).ids == expected
    for odd in ("<|img_1|>", "<|img_00001", "<|aud8_0000|>", "<|img_99999|>"):
        assert exported.encode(odd).ids == tokenizer.encode_text(odd).ids.tolist()


def test_a_word_that_would_be_spelled_otherwise_is_refused(tmp_path):
    "A word that no merge reaches is spelled by its own tokenizer, and whole where merges are ignored."

    def add_an_unreachable_word(data):
        vocabulary = data["model"]["vocab"]
        vocabulary["xyzzy"] = max(vocabulary.values()) + 1

    with pytest.raises(ExportError, match="would spell 'xyzzy' otherwise"):
        export_tokenizer(unified(rewritten(tmp_path, add_an_unreachable_word)), tmp_path / "out")


# Vocabularies with surprises


def test_gaps_are_filled_and_no_id_moves(tmp_path):
    def make_gaps(data):
        vocabulary = data["model"]["vocab"]
        vocabulary[max(vocabulary, key=vocabulary.get)] = 400
        data["added_tokens"].append(
            added(999, "<extra>")
        )  # the library gives it the id of the number of entries, whatever stands here

    tokenizer = unified(rewritten(tmp_path, make_gaps))
    own = tokenizer.codec("text").tokenizer.get_vocab()
    assert tokenizer.space.text == 401 and len(own) < 401 and own["<extra>"] < 400
    exported = hf.AutoTokenizer.from_pretrained(export_tokenizer(tokenizer, tmp_path / "out"))
    vocabulary = exported.get_vocab()
    assert (
        own.items() <= vocabulary.items()
        and len(exported) == tokenizer.space.vocab_size_total
        and sorted(vocabulary.values()) == list(range(len(exported)))
    )
    gap = min(set(range(401)) - set(own.values()))
    ids = [
        gap,
        *tokenizer.encode_text("five<extra>jugs").ids.tolist(),
        tokenizer.space.special["<|img_start|>"],
    ]
    assert (
        exported.convert_ids_to_tokens(gap) == f"<|text_unused_{gap}|>"
        and exported.encode(exported.decode(ids)) == ids
    )


def test_an_id_with_two_tokens_is_refused(tmp_path):
    def collide(data):
        vocabulary = data["model"]["vocab"]
        top = max(vocabulary.values())
        vocabulary |= {
            next(t for t, i in vocabulary.items() if i == top - 1): top + 1
        }  # a hole below, so the next free id is taken
        data["added_tokens"].append(added(999, "<extra>"))

    with pytest.raises(ExportError, match=r"'PreTrainedTokenizerFast'|'TokenizersBackend'") as error:
        export_tokenizer(unified(rewritten(tmp_path, collide)), tmp_path / "out")
    assert "would have id" in str(error.value) or "an id has two tokens" in str(error.value)


@pytest.mark.parametrize("name", ["<|img_0_042|>", "<|special_33|>", "<|pad_mm|>"])
def test_a_name_that_the_text_has_already_is_refused(name, tmp_path):
    text = rewritten(tmp_path, lambda data: data["added_tokens"].append(added(999, name)))
    with pytest.raises(ExportError, match=r"already") as error:
        export_tokenizer(unified(text), tmp_path / "out")
    assert repr(name) in str(error.value)


def test_a_token_that_hides_ours_is_refused(tmp_path):
    text = rewritten(tmp_path, lambda data: data["added_tokens"].append(added(999, "<|img_0_042|><|")))
    with pytest.raises(ExportError, match=r"hide '<\|img_0_042\|>'"):
        export_tokenizer(unified(text), tmp_path / "out")


def test_truncation_and_padding_of_the_text_are_taken_out(tmp_path):
    def limit(data):
        data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        data["padding"] = {
            "strategy": {"Fixed": 4},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<unk>",
        }

    tokenizer = unified(rewritten(tmp_path, limit))
    exported = Tokenizer.from_file(str(export_tokenizer(tokenizer, tmp_path / "out") / "tokenizer.json"))
    for text in ("", "The five lazy jugs and the quick brown fox."):
        assert exported.encode(text).ids == tokenizer.encode_text(text).ids.tolist()


def test_the_chat_template_goes_along(tmp_path):
    folder = save("byte_level_bpe", tmp_path)
    text = hf.AutoTokenizer.from_pretrained(folder)
    text.chat_template, text.eos_token = (
        "{% for m in messages %}<|text_start|>{{ m.content }}<|text_end|>{% endfor %}",
        "<s>",
    )
    text.save_pretrained(folder)
    tokenizer = unified(HFText(folder))
    exported = hf.AutoTokenizer.from_pretrained(export_tokenizer(tokenizer, tmp_path / "out"))
    chat = exported.apply_chat_template([{"role": "user", "content": "five jugs"}])["input_ids"]
    assert (
        chat == segment(tokenizer.space, "text", tokenizer.encode_text("five jugs").ids).tolist()
        and exported.eos_token == "<s>"
    )


# What cannot be exported


def test_a_tokenizer_written_in_python_is_refused(tmp_path):
    hf.ByT5Tokenizer().save_pretrained(tmp_path / "slow")
    with pytest.raises(ExportError, match=r"'ByT5Tokenizer': only a fast tokenizer"):
        export_tokenizer(unified(HFText(tmp_path / "slow")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_codec_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"'sized-text': only a fast tokenizer.*it has none"):
        export_tokenizer(unified(Sized("text", 256)), tmp_path / "out")


def test_a_codec_that_does_more_than_its_tokenizer_is_refused(tmp_path):
    class Shouts(EmbeddedText):
        def _encode(self, signals, lengths):
            return super()._encode([text.upper() for text in signals], lengths)

    with pytest.raises(ExportError, match=r"other ids .* text with capitals"):
        export_tokenizer(unified(Shouts()), tmp_path / "out")


def test_a_space_without_text_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"no text, only image"):
        export_tokenizer(UnifiedTokenizer({"image": Sized("image", 16)}), tmp_path / "out")


# The folder


@pytest.mark.parametrize(
    "there",
    [
        ["model.safetensors"],
        ["tokenizer.json", "tokenizer_config.json"],
        ["uti.yaml", "token_space.json"],
        [*FILES, "config.json"],
    ],
    ids=len,
)
def test_a_folder_with_anything_else_is_left_alone(there, tmp_path):
    for name in there:
        (tmp_path / name).write_text("theirs")
    with pytest.raises(ExportError, match=r"not just an earlier export"):
        export_tokenizer(unified(EmbeddedText()), tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {name: "theirs" for name in there}


def test_a_file_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("theirs")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises((ExportError, OutdirError), match=r"is a file|cannot be written"):
            export_tokenizer(unified(EmbeddedText()), path)
    assert (tmp_path / "file").read_text() == "theirs"


def test_an_export_is_whole_or_not_there(tmp_path, monkeypatch):
    small, large = unified(EmbeddedText(), image=(4,)), unified(EmbeddedText(), image=(8,))
    folder = export_tokenizer(small, tmp_path / "deep" / "out")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def dies(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("uti.tokens.export.save_space", dies)
        for path in (folder, tmp_path / "deep" / "new"):
            with pytest.raises(ExportError, match=r"No space left"):
                export_tokenizer(large, path)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before and [
        p.name for p in (tmp_path / "deep").iterdir()
    ] == ["out"]

    export_tokenizer(small, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before, "the same bytes every time"
    export_tokenizer(large, folder)
    assert load_space(folder / "token_space.json") == large.space and [
        p.name for p in (tmp_path / "deep").iterdir()
    ] == ["out"]


def test_a_config_goes_along_and_codec_objects_have_none(tmp_path):
    tokenizer = UnifiedTokenizer.from_config(parse_config({"text": "embedded-text"}))
    assert (
        UnifiedTokenizer.from_pretrained(export_tokenizer(tokenizer, tmp_path / "config")).space
        == tokenizer.space
    )
    assert not (
        export_tokenizer(UnifiedTokenizer({"text": EmbeddedText()}), tmp_path / "objects") / "uti.yaml"
    ).exists()


# Without UTI


WITHOUT = """
import json, sys
sys.modules["uti"] = None
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
strings = json.load(sys.stdin)
ids = [tokenizer.encode(string) for string in strings]
same = [tokenizer.decode(row) for row in ids] == strings
print(json.dumps([len(tokenizer), tokenizer.pad_token_id, ids, same]))
"""


@pytest.mark.slow  # a process of its own
def test_it_loads_where_uti_cannot_be_imported(tmp_path):
    tokenizer = unified(EmbeddedText())
    names, space = token_names(tokenizer.space), tokenizer.space
    strings = [
        *PROBES.values(),
        "".join(names),
        "a cup <|img_start|><|img_0_042|><|img_1_07|><|img_end|> of <|aud_03_11|>",
    ]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, export_tokenizer(tokenizer, tmp_path / "out")],
        input=json.dumps(strings),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    size, pad, ids, same = json.loads(run.stdout)
    assert (size, pad, same) == (space.vocab_size_total, space.special["<|pad_mm|>"], True)
    assert ids[: len(PROBES)] == [tokenizer.encode_text(text).ids.tolist() for text in PROBES.values()]
    assert ids[-2] == list(range(space.text, space.vocab_size_total))
    assert {
        space.ranges["IMAGE_CB0"][42],
        space.ranges["IMAGE_CB1"][7],
        space.ranges["AUDIO_CB3"][11],
    } <= set(ids[-1])


def large_tokenizer(n_entries):
    "A byte-level BPE of pairs of a small and a capital letter, and of pairs of these: merges reach each."
    letters = [chr(97 + i) for i in range(26)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [a + b.upper() for a in letters for b in letters]
    more = [a + b for a in pairs for b in pairs][: n_entries - len(alphabet) - len(pairs)]
    merges = [(p[0], p[1]) for p in pairs] + [(w[:2], w[2:]) for w in more]
    vocabulary = {word: i for i, word in enumerate([*alphabet, *pairs, *more])}
    found = Tokenizer(BPE(vocabulary, merges))
    found.pre_tokenizer, found.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    return found


@pytest.mark.slow
def test_a_space_as_large_as_qwens(tmp_path):
    "151,669 entries of text, 64, 8,192 and 4 × 1,024: every id and its name, in a process without UTI."
    large = large_tokenizer(151_669)
    large.save(str(tmp_path / "text.json"))
    tokenizer = unified(HFText(tmp_path / "text.json"), image=(8192,), audio=(1024,) * 4)
    folder, space = export_tokenizer(tokenizer, tmp_path / "out"), tokenizer.space
    assert (space.text, space.vocab_size_total) == (151_669, 164_021)
    text = large.get_vocab()
    names, ids = [*text, *token_names(space)], [*text.values(), *range(space.text, space.vocab_size_total)]
    code = f"""
import json, sys, time
sys.modules["uti"] = None
from transformers import AutoTokenizer
start = time.process_time()
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
seconds = time.process_time() - start
names, ids = json.load(sys.stdin)
back = [tokenizer.encode(name) for name in names[151_669:]]
print(json.dumps([len(tokenizer), tokenizer.convert_tokens_to_ids(names) == ids,
    tokenizer.convert_ids_to_tokens(ids) == names, back == [[i] for i in ids[151_669:]], seconds]))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps([names, ids]), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)[:4] == [164_021, True, True, True]


def test_it_keeps_its_ids_when_a_trainer_saves_it_beside_a_model(family, tmp_path):
    _tokenizer, exported = family
    exported.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    text = "The five <|img_start|><|img_0_042|> jugs"
    assert hf.AutoTokenizer.from_pretrained(tmp_path).encode(text) == exported.encode(text)
