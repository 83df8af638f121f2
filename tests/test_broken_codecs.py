"Every question finds a codec that no other finds, and blames none that keeps its promises."

import pytest
from broken_codecs import BROKEN, Bytes, Tiles
from small_codecs import Blocks, Held, Rising

from uti.checks.base import CHECKS
from uti.checks.case import CodecCase
from uti.testing import check_codec, codec_checks
from uti.tokens.tokenizer import UnifiedTokenizer


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_codec_is_found_by_the_question_of_its_kind(kind, monkeypatch):
    question, alone = BROKEN[kind]
    monkeypatch.setattr("uti.checks.repeatability.SECONDS", 0.2)
    failed = {
        answer.name: answer.detail
        for _, answers in codec_checks(kind())
        for answer in answers()
        if answer.failed_gate
    }
    assert failed.get(question), failed
    assert not alone or set(failed) == {question}, failed


@pytest.mark.parametrize("kind", [Blocks, Held, Rising, Tiles, Bytes], ids=lambda kind: kind.__name__)
def test_a_codec_that_keeps_its_promises_fails_nothing(kind):
    assert check_codec(kind())


# (encodes, decodes) of a question that is asked first; those that the time decides are left out
COST = {
    "batch_encode": (22, 1),
    "batch_decode": (11, 19),
    "orientation_audio": (3, 3),
    "orientation_level": (2, 2),
    "purity_values": (3, 3),
    "purity_memory": (6, 0),
    "purity_memory_decode": (1, 3),
    "purity_process": (3, 2),
    "repeatability_decode": (6, 6),
    "signal_ids": (11, 1),
    "signal_decoder": (3, 14),
    "signal_meta_size": (5, 0),
    "signal_meta": (2, 0),
}


@pytest.mark.parametrize("name", COST)
def test_what_a_question_costs(name):
    case = CodecCase(UnifiedTokenizer({"audio": Blocks()}), "audio")
    assert CHECKS[name].ask(case).passed
    assert (case.trial.calls["encode"], case.trial.calls["decode"]) == COST[name]
