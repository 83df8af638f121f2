"""The conformance kit passes what keeps the contract and fails, for the right reason, what breaks any one
promise of it.
"""

import errno
import itertools
import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile as sf
import torch
from broken_codecs import BROKEN as FOUND_BY
from small_codecs import Blocks, Rising

from uti.audit.plan import AuditPlan
from uti.audit.report_json import read_record
from uti.audit.run import run_audit
from uti.checks import case as uti_case
from uti.checks.base import CHECKS, Outcome, check, promised
from uti.checks.case import Case, CodecCase, FreshProcesses
from uti.codecs import base
from uti.codecs.base import CodecError, Encoded, LoadedWeights
from uti.codecs.embedded.audio import EmbeddedAudio
from uti.codecs.embedded.image import EmbeddedImage
from uti.codecs.embedded.text import EmbeddedText
from uti.config import parse_config
from uti.modalities.base import Sample
from uti.pages import audit as sections
from uti.testing import check_codec, codec_checks, failures, parametrize_with_checks
from uti.tokens.tokenizer import UnifiedTokenizer


@parametrize_with_checks(EmbeddedText(), EmbeddedImage(), EmbeddedAudio(), EmbeddedAudio(n_codebooks=2))
def test_the_embedded_codecs_keep_the_contract(question):
    assert not failures(question)


def test_the_codec_that_is_broken_below_is_whole():
    assert not [c for c in check_codec(Blocks()) if c.gates and c.passed is False]


class WrongDtype(Blocks):
    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(codes.int(), meta)


class Bare(Blocks):
    def _encode(self, signals, lengths):
        return super()._encode(signals, lengths).codes


class UnserialisableMeta(Blocks):
    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(codes, [{**m, "scale": torch.ones(1)} for m in meta])


class SilentMeta(Blocks):
    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(codes, [{"n_samples": m["n_samples"]} for m in meta])


class Restless(Blocks):
    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(torch.randint_like(codes, 16), meta)


class CountingMeta(Blocks):
    calls = itertools.count()

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(codes, [{**m, "call": next(self.calls)} for m in meta])


class ThreadDependent(Blocks):
    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded((codes + torch.get_num_threads()) % 16, meta)


class BatchDependent(Blocks):
    "Looks at the padding: the loudest of the batch sets the level of all."

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded((codes + len(signals)) % 16, meta)


class OutOfRange(Blocks):
    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(codes + 16, meta)


class ExtraFrame(Blocks):
    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(
            torch.nn.functional.pad(codes, (0, 1)), [{**m, "n_positions": m["n_positions"] + 1} for m in meta]
        )


class OtherBooks(Blocks):
    def runtime_codebook_sizes(self):
        return (16, 32)


class DrawnWeights(Blocks):
    "Its second tensor lies in no file, though one of the same shape does."

    files = tempfile.TemporaryDirectory()

    def loaded_weights(self):
        path = Path(self.files.name) / "weights.pt"
        torch.save({"kept": torch.ones(2), "drawn": torch.zeros(2)}, path)
        return LoadedWeights({"kept": torch.ones(2), "drawn": torch.rand(2)}, [path])


class ShortDecode(Blocks):
    def _decode(self, codes, meta):
        return super()._decode(codes, meta)[:, :, :-1]


class NotFinite(Blocks):
    def _decode(self, codes, meta):
        return super()._decode(codes, meta) * math.nan


class TooLoud(Blocks):
    def _decode(self, codes, meta):
        return super()._decode(codes, meta) + 3


class Stereo(Blocks):
    def _decode(self, codes, meta):
        return super()._decode(codes, meta).expand(-1, 2, -1)


class FragileDecode(Blocks):
    def _decode(self, codes, meta):
        if (codes == 15).all((1, 2)).any():
            raise IndexError("index out of range")
        return super()._decode(codes, meta)


class Forgiving(Blocks):
    "Decodes whatever it is given, in place of refusing."

    def decode(self, codes, meta):
        return self._decode(codes.clamp(0, 15), meta)

    def expected_positions(self, n_samples=None):
        return None


class NotIdempotent(Blocks):
    def _decode(self, codes, meta):
        return super()._decode(codes, meta) * 0.5


class DecodesAnyway(Blocks):
    def decode(self, codes, meta):
        return self._decode(codes, meta)


class RestlessDecode(Blocks):
    calls = itertools.count()

    def _decode(self, codes, meta):
        return super()._decode(codes, meta) * 0.99 ** next(self.calls)


class Doubtful(Blocks):
    "Asks a question of itself and has the wrong answer."

    def own_checks(self, signals, encoded):
        return [("loudness", False, 2, 1)]


BROKEN = [
    (WrongDtype(), {"codes"}),
    (Bare(), {"codes"}),
    (UnserialisableMeta(), {"codes"}),
    (SilentMeta(), {"codes"}),
    (Restless(), {"determinism"}),
    (CountingMeta(), {"determinism"}),
    (ThreadDependent(), {"invariance_threads"}),
    (BatchDependent(), {"invariance_batch"}),
    (OutOfRange(), {"token_range"}),
    (ExtraFrame(), {"shape"}),
    (OtherBooks(), {"runtime_size"}),
    (DrawnWeights(), {"weights"}),
    (ShortDecode(), {"length", "any_codes_decode"}),
    (NotFinite(), {"finite", "any_codes_decode"}),
    (TooLoud(), {"finite"}),
    (Stereo(), {"channels", "any_codes_decode"}),
    (FragileDecode(), {"any_codes_decode"}),
    (Forgiving(), {"rejection"}),
    (NotIdempotent(idempotent=True), {"idempotence"}),
    (DecodesAnyway(decode_modes=()), {"refuses_decode"}),
    (RestlessDecode(), {"decode_determinism"}),
    (Doubtful(), {"own"}),
]


@pytest.mark.parametrize(("codec", "questions"), BROKEN, ids=[type(codec).__name__ for codec, _ in BROKEN])
def test_each_broken_promise_is_found(codec, questions):
    broken = {name for name, question in codec_checks(codec) if failures(question)}
    assert questions <= broken, broken
    with pytest.raises(AssertionError, match=r"breaks .* promises"):
        check_codec(codec)


class Forgetful(Blocks):
    "Encodes half a minute at a time, and drops the last tenth of a second of each."

    def _encode(self, signals, lengths):
        kept = [part[..., :-100] if part.shape[-1] == 30_000 else part for part in signals.split(30_000, -1)]
        return super()._encode(torch.cat(kept, -1), None)


class Shortened(Blocks):
    "Decodes a minute at most."

    def _decode(self, codes, meta):
        return super()._decode(codes, meta)[..., :60_000]


@pytest.mark.parametrize(("broken", "kept"), [(Forgetful(), 0), (Shortened(), 1)])
def test_what_long_sounds_lose_is_found_by_a_thorough_run(broken, kept):
    (brief,) = [a for _, ask in codec_checks(broken) for a in ask() if a.name == "long_sounds"]
    assert brief.passed is None
    ((_, ask),) = [(name, ask) for name, ask in codec_checks(broken, thorough=True) if name == "long_sounds"]
    (answer,) = ask()
    assert answer.failed_gate and answer.found == kept and "90 s: " in answer.detail
    whole = {a.name: a for a in check_codec(Blocks(), thorough=True)}
    assert whole["long_sounds"].passed and whole["long_sounds"].found == 3


def test_a_thorough_audit_says_how_fast_a_codec_is(tmp_path):
    tokenizer = UnifiedTokenizer({"text": EmbeddedText(), "audio": Blocks()})
    plan = AuditPlan(tokenizer, tmp_path / "out", thorough=True)
    record = run_audit(plan)
    assert read_record(tmp_path / "out/report.json").speed == record.speed
    assert [(s.modality, s.batch) for s in record.speed] == [
        ("text", 1), ("text", 8), ("audio", 1), ("audio", 8)
    ]  # fmt: skip
    text, *_, sound = record.speed
    assert text.seconds is None and text.encode_real_time_factor is None and text.decode_ids_per_second > 0
    assert sound.seconds > 1 and sound.encode_real_time_factor * sound.encode_ids_per_second == pytest.approx(
        200
    )
    page = str(sections.speed(record))
    assert page.count("<tr") == 5 and "below 1 is faster than it plays" in page
    assert "--thorough" in str(sections.speed(record.model_copy(update={"speed": []})))


class OtherWithFewer(Blocks):
    "With one codebook its codes are others, and audio worse than silence."

    def first_codebooks(self, n):
        return Coarse(codebook_sizes=(16,))


class Coarse(Blocks):
    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(15 - codes[:, :1], meta)

    def _decode(self, codes, meta):
        return super()._decode(codes.expand(-1, 2, -1), meta)


def test_fewer_codebooks_that_are_others_are_said_and_gate_nothing():
    def more_codebooks(codec):
        return [a for name, ask in codec_checks(codec) if name == "more_codebooks" for a in ask()]

    answers = more_codebooks(OtherWithFewer())
    assert answers and not any(a.gates for a in answers)
    assert any("the codes of 1 codebooks are not those of the first 1 of 2" in a.detail for a in answers)
    assert all(a.passed is None for a in more_codebooks(Blocks()))
    own = {a.item: a for a in more_codebooks(EmbeddedAudio())}
    assert own["a second"].passed and not any("are not those" in a.detail for a in own.values())


def test_every_question_can_fail():
    asked = {name for codec in (Blocks(), Blocks(decode_modes=())) for name, _ in codec_checks(codec)}
    # of a config, of a second device, of a tokenizer, of a thorough run; and what does not gate
    elsewhere = {
        "fresh_process",
        "fresh_process_decode",
        "invariance_devices",
        "sample_rate",
        "long_sounds",
        "more_codebooks",
        "stability",
        "version_dtype",
    }
    found = set().union(*(questions for _, questions in BROKEN), (name for name, _ in FOUND_BY.values()))
    assert asked - elsewhere <= found


class Wanders(EmbeddedText):
    "A codec whose ids depend on the device that it was last brought to."

    device = "cpu"

    def to(self, device):
        self.device = device
        return self

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(codes + (self.device != "cpu"), meta)


@pytest.mark.parametrize(("devices", "passed"), [(False, None), (True, False)])
def test_devices_are_compared_where_there_are_two(devices, passed, monkeypatch):
    "The codec is where it was when all is asked."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices)
    tokenizer = UnifiedTokenizer({"text": Wanders()})
    case = Case.of(tokenizer, Sample("one", "text", "one")).encode()
    answer = CHECKS["invariance_devices"].ask(case)
    assert answer.passed is passed and tokenizer.codec("text").device == "cpu"
    assert answer.expected == 0 and (answer.found is None or answer.found == len(case.tokens.ids))
    assert ("cuda: " in answer.detail) if devices else (answer.detail == "only one device is present")


def test_a_promise_not_made_is_not_broken():
    loose = ThreadDependent(invariant=False)
    assert all(c.name != "invariance_threads" or not c.gates for c in check_codec_answers(loose))


def check_codec_answers(codec):
    return [c for _, question in codec_checks(codec) for c in question()]


@pytest.mark.parametrize(
    "wrong",
    [
        dict(codebook_sizes=()),
        dict(hop_length=None),
        dict(hop_length=0),
        dict(channels=1.0),
        dict(codebook_sizes=(0,)),
    ],
)
def test_a_spec_that_contradicts_itself(wrong):
    with pytest.raises(CodecError):
        Blocks(**wrong)


@pytest.fixture
def question():
    "A check, put on the list for one test."

    @check("No code is zero", of="encoded item", gates=promised("invariant"), modalities=("audio",))
    def no_code_is_zero(case):
        zeros = int((case.encoded.codes == 0).sum())
        return Outcome(not zeros, zeros, 0)

    yield no_code_is_zero
    del CHECKS["no_code_is_zero"]


def test_a_check_needs_one_place(question, tmp_path):
    """On the list, it is asked by the kit and by the audit, gates where it should, and stands in report.json
    with its sentence.
    """
    codec = EmbeddedAudio()
    answers = [c for name, asked in codec_checks(codec) if name == "no_code_is_zero" for c in asked()]
    assert len(answers) == 4 and all(c.gates for c in answers)
    record = run_audit(
        AuditPlan(
            UnifiedTokenizer({"audio": codec, "text": EmbeddedText()}), tmp_path / "out", decode_mode="none"
        )
    )
    read = read_record(tmp_path / "out" / "report.json")
    found = [c for c in read.checks if c.name == "no_code_is_zero"]
    assert len(found) == sum(i.modality == "audio" for i in read.items) and {
        (c.question, c.modality) for c in found
    } == {("No code is zero", "audio")}
    assert record.passed == all(c.passed for c in found)
    with pytest.raises(ValueError, match=r"'no_code_is_zero' is on the list already"):
        check("again", of="codec")(question)
    assert not [name for name, _ in codec_checks(EmbeddedText()) if name == "no_code_is_zero"]


def test_two_sample_rates_are_stated_in_one_place(tmp_path):
    """The contract, the gates, the record and the files of a codec that takes one rate and gives another
    follow from its spec.
    """
    assert not [c for c in check_codec(Rising()) if c.failed_gate]
    record = run_audit(AuditPlan(UnifiedTokenizer({"audio": Rising()}), tmp_path))
    read = read_record(tmp_path / "report.json")
    assert record.passed and (read.codecs["audio"]["sample_rate"], read.codecs["audio"]["output_rate"]) == (
        8000,
        12_000,
    )
    found = {c.name: c for c in read.checks if c.item == "speech.wav"}
    assert found["sample_rate"].found == 12_000 and found["length"].passed
    assert (
        read.metrics["audio_snr_db"].value > 0
    )  # a click a millisecond is not much of a codec, but is aligned
    files = [
        sf.info(tmp_path / name)
        for item in read.items
        for name in (item.original, item.recon)
        if item.name == "speech.wav"
    ]
    assert {f.samplerate for f in files} == {12_000} and len({f.frames for f in files}) == 1


def registered(monkeypatch, target):
    "A tokenizer whose codec of texts is registered in this process as `here`."
    monkeypatch.setitem(base._registered, "here", target)
    return UnifiedTokenizer.from_config(parse_config({"text": "here"}))


class OnlyWhereATestRuns(EmbeddedText):
    "A codec that another process finds, and that does not load there."

    def __init__(self):
        if os.environ["ONLY_IN"] != str(os.getpid()):
            raise FileNotFoundError("the weights lie elsewhere")
        super().__init__()


def test_fresh_processes_that_fail_are_started_once_and_quoted(monkeypatch):
    monkeypatch.setenv("ONLY_IN", str(os.getpid()))
    tokenizer = registered(monkeypatch, OnlyWhereATestRuns)
    samples = [Sample(name, "text", name) for name in ("one", "two", "three")]
    started, spawn = [], uti_case._spawn
    monkeypatch.setattr(uti_case, "_spawn", lambda *given: started.append(given) or spawn(*given))
    fresh = FreshProcesses(tokenizer, samples)
    cases = [Case.of(tokenizer, sample).encode(fresh) for sample in samples]
    answers = [CHECKS["fresh_process"].ask(case) for case in cases]
    assert len(started) == 2 and all(
        a.failed_gate and a.detail.startswith("the fresh process failed: FileNotFoundError: the weights lie")
        for a in answers
    )


def test_a_codec_that_was_registered_here_is_found_there_or_the_question_is_not_asked(monkeypatch):
    case = Case.of(registered(monkeypatch, EmbeddedText), Sample("one", "text", "one")).encode()
    assert CHECKS["fresh_process"].ask(case).passed is True
    for target in (lambda: EmbeddedText(), type("Made", (EmbeddedText,), {})):
        case = Case.of(registered(monkeypatch, target), Sample("one", "text", "one")).encode()
        answer = CHECKS["fresh_process"].ask(case)
        assert answer.passed is None and not answer.failed_gate
        assert (
            answer.detail
            == "could not be asked, because no other process can import what is registered here as 'here'"
        )


def test_a_full_disk_is_no_answer():
    "It is not the codec's fault, so it is not recorded as a failed gate."

    def full(case):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace(CHECKS["determinism"], function=full).ask(CodecCase(None, "text"))
