"""What the checks ask: each corruption is one corruption, and each fault of a token space is found."""

from dataclasses import dataclass, replace

import pytest
import torch

from uti.checks.base import CHECKS
from uti.checks.case import Case, CodecCase, DecodedCase, SpaceCase, difference
from uti.checks.encoding import batch_of
from uti.checks.encoding import codes as codes_check
from uti.checks.places import length_fault
from uti.checks.registry import ask
from uti.checks.rejection import _IN_EVERY_META, _altered_metas, _corrupted, _wrong, _wrong_codes
from uti.codecs.base import Encoded
from uti.codecs.embedded.audio import EmbeddedAudio
from uti.codecs.embedded.image import EmbeddedImage
from uti.codecs.embedded.text import EmbeddedText
from uti.config import parse_config
from uti.modalities.base import Audio, Image, Sample
from uti.space import TokenSpace
from uti.tokens.tokenizer import Tokens, UnifiedTokenizer


@pytest.fixture(scope="module")
def cases() -> dict[str, DecodedCase]:
    "Short audio in three codebooks, and a text."
    tokenizer = UnifiedTokenizer({"text": EmbeddedText(), "audio": EmbeddedAudio(n_codebooks=3)})
    noise = 0.1 * torch.randn(1, 2000, generator=torch.Generator().manual_seed(0))
    samples = Sample("noise", "audio", Audio(noise, 24_000)), Sample("words", "text", "A few words.")
    return {s.modality: Case.of(tokenizer, s).encode().decode() for s in samples}


def test_the_first_id_alone_is_wrong_or_the_last_is_missing(cases):
    case = cases["audio"]
    space, ids, meta = case.tokenizer.space, case.tokens.ids, case.tokens.meta
    found = dict(_corrupted(case.tokenizer, case.tokens))
    assert {what: int(tokens.ids[0]) for what, tokens in found.items() if len(tokens.ids) == len(ids)} == {
        "an id beyond the space": space.vocab_size_total,
        "a negative id": -1,
        "a special token's id": space.ranges["SPECIAL"].start,
        "an id of text": 0,
        "an id of another codebook": int(ids[-1]),
    }
    assert all(tokens.meta == meta for tokens in found.values())
    short = found.pop("one id too few")
    assert torch.equal(short.ids, ids[:-1])
    assert all(torch.equal(tokens.ids[1:], ids[1:]) for tokens in found.values())
    text = cases["text"]
    found = dict(_corrupted(text.tokenizer, text.tokens))
    assert list(found) == [
        "an id beyond the space",
        "a negative id",
        "a special token's id",
        "an id of audio",
    ]  # a text may end anywhere
    assert int(found["an id of audio"].ids[0]) == space.modality_ranges("audio")[0].start


def test_one_entry_of_a_meta_is_altered_or_missing(cases):
    case = cases["audio"]
    ids, meta = case.tokens.ids, case.tokens.meta
    found = dict(_altered_metas(case.tokenizer, case.tokens))
    assert all(torch.equal(tokens.ids, ids) for tokens in found.values())
    assert set(_IN_EVERY_META) | {"codec_meta"} <= set(meta)
    for key in (*_IN_EVERY_META, "codec_meta"):
        assert found.pop(f"meta without {key}").meta == {k: v for k, v in meta.items() if k != key}
    for key in _IN_EVERY_META:
        altered = found.pop(f"meta with {key} altered").meta
        wanted = f"{meta[key]}-altered" if isinstance(meta[key], str) else meta[key] + 1
        assert altered == {**meta, key: wanted}
    longer = found.pop("meta with another number of samples").meta
    n_samples = meta["codec_meta"]["n_samples"] + case.spec.samples_of(1)
    assert longer == {**meta, "codec_meta": {**meta["codec_meta"], "n_samples": n_samples}}
    assert not found
    text = cases["text"]
    assert not list(_altered_metas(text.tokenizer, text.tokens))  # its ids are enough


def test_one_code_is_beyond_its_codebook_or_negative(cases):
    for case in cases.values():
        codes = case.encoded.codes
        found = dict(_wrong_codes(case))
        assert {what: int(wrong[0, 0, 0]) for what, wrong in found.items()} == {
            "a code beyond its codebook": case.spec.codebook_sizes[0],
            "a negative code": -1,
        }
        assert all(int((wrong != codes).sum()) == 1 for wrong in found.values())


def test_each_wrong_decode_is_one_that_is_refused(cases):
    for case in cases.values():
        wrong = dict(_wrong(case))
        assert len(wrong) == (6 + 7 * 2 + 2 + 2 if case.modality == "audio" else 4 + 2)
        for what, decode in wrong.items():
            with pytest.raises(ValueError) as error:
                decode()
            assert str(error.value), what
    (answer,) = (a for a in ask("decoded item", cases["audio"]) if a.name == "rejection")
    assert (answer.passed, answer.found, answer.expected, answer.detail) == (True, 24, 24, "")


def test_a_case_is_of_a_sample_and_of_a_process_that_may_be_shared(cases):
    codec = EmbeddedAudio(1)
    codec.spec = replace(codec.spec, output_rate=12_000)
    tokenizer = UnifiedTokenizer(
        {"audio": codec}, parse_config({"audio": "embedded-audio", "clip_seconds": 0.05})
    )
    source = cases["audio"].source
    case = Case.of(tokenizer, source)
    fresh = case.encode().fresh
    assert (case.source, fresh.tokenizer, fresh.samples) == (source, tokenizer, [source])
    assert case.encode(fresh).fresh is fresh
    assert case.sample.signal.wave.shape == (1, 1200) and case.sample.record["samples"] == 1200
    assert case.reference.rate == 12_000 and case.reference.wave.shape == (1, 600)  # as long as the clip
    assert (case.modality, case.item) == ("audio", "noise")
    assert Case.of(tokenizer, case.sample).sample is case.sample  # in its normal form already


def test_where_two_encodings_differ_is_said_in_the_order_of_time(cases):
    case = cases["audio"]
    tokenizer, tokens = case.tokenizer, case.tokens

    def changed(*cells, **meta):
        ids = tokens.ids.clone()
        for k, t in cells:  # frames of three codebooks
            start = tokenizer.space.modality_ranges("audio")[k].start
            ids[3 * t + k] = start if ids[3 * t + k] != start else start + 1
        return Tokens(ids, {**tokens.meta, **meta})

    n = len(tokens.ids)
    for cells, first in (([(0, 4), (2, 1)], (2, 1)), ([(2, 3), (1, 3)], (1, 3)), ([(1, 0)], (1, 0))):
        said = f"{len(cells)} of {n} ids differ, first in codebook {first[0]} at position {first[1]}"
        assert difference(tokenizer, tokens, changed(*cells)) == (len(cells), said)
    assert difference(tokenizer, tokens, tokens) == (0, "")
    assert difference(tokenizer, tokens, changed(codec="other", more=1)) == (
        0,
        "the metas differ in codec, more",
    )
    assert difference(tokenizer, tokens, Tokens(tokens.ids[3:], tokens.meta)) == (
        None,
        f"{n} ids against {n - 3}",
    )


class Altered(EmbeddedAudio):
    "Answers what `alter` makes of its answer."

    def __init__(self, alter):
        super().__init__(2)
        self.alter = alter

    def _encode(self, signals, lengths):
        return self.alter(super()._encode(signals, lengths))


META = "meta is not one JSON-serialisable dict an item"
ODD = "codes are torch.{}, promised int64 [1, 2, n_positions]"


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda e: e.codes, "encode returned Tensor, not Encoded(codes, meta)"),
        (lambda e: Encoded(e.codes.int(), e.meta), ODD.format("int32 [1, 2, 7]")),
        (lambda e: Encoded(e.codes[:, :1], e.meta), ODD.format("int64 [1, 1, 7]")),
        (lambda e: Encoded(e.codes[0], e.meta), ODD.format("int64 [2, 7]")),
        (lambda e: Encoded(e.codes[..., None], e.meta), ODD.format("int64 [1, 2, 7, 1]")),
        (lambda e: Encoded(e.codes, []), f"{META}: list index out of range"),
        (lambda e: Encoded(e.codes, [{"a": {1}}]), f"{META}: Object of type set"),
        (lambda e: Encoded(e.codes, [{"n_samples": 2000}]), "meta does not say n_positions"),
        (
            lambda e: Encoded(e.codes + 1, [{**m, "n_positions": 3} for m in e.meta]),
            "codes beyond n_positions are not zero",
        ),
        (lambda e: e, ""),
    ],
)
def test_the_form_of_what_is_encoded(cases, alter, told):
    case = Case.of(UnifiedTokenizer({"audio": Altered(alter)}), cases["audio"].source).encode()
    answer = codes_check(case)
    assert (answer.passed, answer.detail.startswith(told)) == (not told, True)


def test_an_item_stands_in_a_batch_between_others_that_are_named(cases):
    before, itself, after = batch_of(cases["text"].sample)
    assert (before.name, itself.name, after.name) == ("words, its beginning", "words", "words, backwards")
    assert before.signal == "A few w" and after.signal == ".sdrow wef A" and itself is cases["text"].sample


def test_ids_that_differ_are_counted_beside_none(cases):
    class Restless(EmbeddedAudio):
        def _encode(self, signals, lengths):
            codes, meta = super()._encode(signals, lengths)
            self.calls = getattr(self, "calls", 0) + 1
            return Encoded((codes + self.calls) % 1024, meta)

    case = Case.of(UnifiedTokenizer({"audio": Restless(1)}), cases["audio"].source).encode()
    answers = {a.name: a for a in ask("encoded item", case)}
    twice = answers["determinism"]
    assert (twice.passed, twice.found, twice.expected) == (False, 7, 0)
    assert twice.detail == "7 of 7 ids differ, first in codebook 0 at position 0"
    whole = next(a for a in ask("encoded item", cases["audio"]) if a.name == "determinism")
    assert (whole.passed, whole.found, whole.expected, whole.detail) == (True, 0, 0, "")


def test_what_a_check_raises_is_a_wrong_answer(cases):
    class Broken(EmbeddedAudio):
        def _encode(self, signals, lengths):
            raise ArithmeticError("no audio today")

    case = Case.of(UnifiedTokenizer({"audio": Broken(1)}), cases["audio"].source)
    answers = [a for a in ask("encoded item", case, Case.encode) if a.name == "determinism"]
    assert [(a.passed, a.gates, a.detail) for a in answers] == [
        (False, True, "raised ArithmeticError: no audio today")
    ]


class Doubtful(EmbeddedAudio):
    "Asks of itself what the list does not, and misjudges how many positions audio has."

    def own_checks(self, signals, encoded):
        return [
            ("loud_enough", encoded.codes.numel() == 7, float(signals.abs().max()), "any"),
            ("short_enough", False, 2, 1),
        ]

    def expected_positions(self, n):
        return super().expected_positions(n) + 1


def test_what_a_codec_asks_of_itself_is_asked_of_an_encoded_item(cases):
    case = Case.of(UnifiedTokenizer({"audio": Doubtful(1)}), cases["audio"].source).encode()
    (own,) = (answer for answer in ask("encoded item", case) if answer.name == "own")
    assert (own.passed, own.gates, own.modality, own.item) == (False, True, "audio", "noise")
    assert set(own.found) == {"loud_enough", "short_enough"} and own.expected["short_enough"] == 1
    assert own.detail == "short_enough: found 2, expected 1"
    assert not any(answer.name == "own" for answer in ask("encoded item", cases["audio"]))


def test_a_question_of_its_own_that_a_codec_cannot_answer_is_a_wrong_answer(cases):
    class Speechless(EmbeddedAudio):
        def own_checks(self, signals, encoded):
            raise KeyError("words")

    case = Case.of(UnifiedTokenizer({"audio": Speechless(1)}), cases["audio"].source).encode()
    (answer,) = (answer for answer in ask("encoded item", case) if answer.name == "own")
    assert not answer.passed and answer.gates
    assert answer.detail == "raised KeyError: 'words'"


def test_a_length_is_what_the_codec_predicts_and_what_comes_back():
    sound, doubtful = (
        CodecCase(UnifiedTokenizer({"audio": codec(1)}), "audio") for codec in (EmbeddedAudio, Doubtful)
    )
    n_samples = 24_001
    n = sound.codec.expected_positions(n_samples)
    assert length_fault(sound.trial, n_samples) == ""
    assert length_fault(doubtful.trial, n_samples) == f"{n} positions, {n} of codes, {n + 1} predicted"


def test_what_is_found_stands_beside_what_was_expected(cases):
    answers = {a.name: (a.passed, a.found, a.expected) for a in ask("decoded item", cases["audio"])}
    assert answers["sample_rate"] == (True, 24_000, 24_000)
    assert answers["channels"] == (True, 1, 1)
    assert answers["length"] == (True, 2000, 2000)
    assert answers["finite"] == (True, True, True)
    picture = Sample("grey", "image", Image(torch.full((3, 20, 30), 128, dtype=torch.uint8)))
    case = Case.of(UnifiedTokenizer({"image": EmbeddedImage(size=64)}), picture).encode().decode()
    answers = {a.name: (a.passed, a.found, a.expected) for a in ask("decoded item", case)}
    assert answers["size"] == (True, [3, 64, 64], [3, 64, 64]) and answers["finite"] == (True, True, True)


class Picky(EmbeddedAudio):
    "Decodes `most` sounds at once, and no code beyond `highest`; counts what it is given."

    most, highest = 3, 1023

    def _decode(self, codes, meta):
        self.batches = [*getattr(self, "batches", []), len(codes)]
        if len(codes) > self.most or codes.max() > self.highest:
            raise IndexError("beyond me")
        return super()._decode(codes, meta)


def test_codes_are_decoded_at_once_and_one_by_one_only_where_that_fails():
    codec = Picky(1)
    case = CodecCase(UnifiedTokenizer({"audio": codec}), "audio")

    def asked():
        codec.batches = []
        return CHECKS["any_codes_decode"].ask(case)

    answer = asked()
    assert answer.passed and (answer.found, answer.expected, codec.batches) == (3, 3, [3])
    codec.most = 1
    assert asked() == answer and codec.batches == [3, 1, 1, 1]
    codec.highest = 1022
    answer = asked()
    assert (answer.passed, answer.found, codec.batches) == (False, 2, [3, 1, 1, 1])
    assert answer.detail == "highest codes: IndexError: beyond me"


@dataclass(frozen=True)
class Shifted(TokenSpace):
    "A space whose image ids begin one id later than they should."

    @property
    def ranges(self):
        ranges = super().ranges
        shift = ranges["IMAGE"]
        return {**ranges, "IMAGE": range(shift.start + 1, shift.stop + 1)}


@dataclass(frozen=True)
class Special(TokenSpace):
    "A space with a special token among the ids of text."

    @property
    def special(self):
        return {**super().special, "<|text_end|>": 3}


def test_faults_of_a_space_are_found_and_said():
    sound = {a.name: a for a in ask("token space", SpaceCase(TokenSpace(10, (4,), (3, 5))))}
    assert len(sound) == 5
    for answer in sound.values():
        assert (answer.passed, answer.found, answer.expected, answer.detail) == (True, True, True, "")
        assert answer.gates and answer.modality is None and answer.item is None
    shifted = {a.name: a for a in ask("token space", SpaceCase(Shifted(10, (4,), ()))) if not a.passed}
    assert set(shifted) >= {"token_space_contiguous", "token_space_vocab_size_total"}
    gap = shifted["token_space_contiguous"]
    assert (gap.passed, gap.found, gap.expected) == (False, False, True)
    assert gap.detail == "not so: each range starts where the one before ends"
    special = {a.name: a for a in ask("token space", SpaceCase(Special(10, (4,), ())))}
    assert special["token_space_specials"].detail == "not so: inside SPECIAL, a range of 64"
