"Every question finds a codec that no other finds, and blames none that keeps its promises."

import pytest
import torch
from broken_codecs import BROKEN, Bytes, Elsewhere, ElsewhereLouder, LastBits, OtherKernels, Tiles
from small_codecs import Blocks, Held, Rising

from uti.checks.base import CHECKS
from uti.checks.case import CodecCase
from uti.testing import check_codec, codec_checks
from uti.tokens.tokenizer import UnifiedTokenizer


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_codec_is_found_by_the_question_of_its_kind(kind, monkeypatch):
    question, alone = BROKEN[kind]
    for name, value in {"repeatability.SECONDS": 60, "repeatability.MOST": 100, "places.SECONDS": 60}.items():
        monkeypatch.setattr(f"uti.checks.{name}", value)  # as much of each as there is, on any machine
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


@pytest.mark.parametrize("name", ["version_encode", "version_decode"])
def test_kernels_are_asked_about_in_a_thorough_run(name):
    for thorough in (False, True):
        case = CodecCase(UnifiedTokenizer({"audio": OtherKernels()}), "audio", thorough=thorough)
        answer = CHECKS[name].ask(case)
        assert answer.failed_gate is thorough and answer.detail.startswith("without oneDNN: " * thorough)
    assert torch.backends.mkldnn.enabled and torch.get_deterministic_debug_mode() == 0


def test_ids_of_last_bits_are_not_stable_and_those_of_means_are():
    found = {
        kind: CHECKS["stability"].ask(CodecCase(UnifiedTokenizer({"audio": kind()}), "audio")).found
        for kind in (Blocks, LastBits)
    }
    what = "±1 in the last of 16 bits"
    assert found[LastBits][what][1] > 0.6 > 0.1 > max(found[Blocks][what])


@pytest.mark.parametrize(
    ("promises", "told"),
    [
        ({}, ""),
        (
            {"chunk_length": 30, "chunk_stride": 20},
            "9 positions in pieces of 30 samples, 7 of the whole",
        ),
    ],
)
def test_a_codec_that_states_chunks_is_held_to_them(promises, told):
    answer = CHECKS["pieces_against_whole"].ask(
        CodecCase(UnifiedTokenizer({"audio": Blocks(**promises)}), "audio")
    )
    assert (answer.gates, answer.passed, answer.detail) == (bool(promises), not told, told)


def elsewhere(codec):
    "The gates that fail in fresh processes, and what is said."
    asked = dict(codec_checks(codec))
    names = ("fresh_process", "fresh_process_decode")
    return {c.name: c.detail for name in names for c in asked[name]() if c.failed_gate}


@pytest.mark.parametrize(
    "what",
    [
        "the working folder",
        *(pytest.param(w, marks=pytest.mark.slow) for w in ("the hour", "the user's name", "the home")),
    ],
)
def test_what_must_not_matter_is_another_in_fresh_processes(what, sent):
    assert set(elsewhere(Elsewhere(what))) == {"fresh_process"}
    assert set(elsewhere(ElsewhereLouder(what))) == {"fresh_process_decode"}


@pytest.mark.slow  # two processes that import torch, for each codec
def test_hashes_have_another_seed_in_fresh_processes(sent, cold):
    assert set(elsewhere(Elsewhere("the hash of a word"))) == {"fresh_process"}
    said = elsewhere(ElsewhereLouder("the hash of a word"))["fresh_process_decode"]
    assert "hash seed 7341" in said or "hash seed 40961" in said  # either may agree with this one by chance
    assert elsewhere(Blocks()) == elsewhere(Tiles()) == elsewhere(Bytes()) == {}


# (encodes, decodes) of a question that is asked first; those that the time decides are left out
COST = {
    "batch_encode": (22, 1),
    "batch_decode": (11, 19),
    "orientation_audio": (3, 3),
    "orientation_level": (2, 2),
    "purity_values": (5, 4),
    "purity_memory": (6, 0),
    "purity_memory_decode": (1, 3),
    "purity_process": (3, 2),
    "purity_training": (3, 0),
    "repeatability_decode": (8, 7),
    "signal_ids": (11, 1),
    "signal_decoder": (3, 14),
    "signal_meta_size": (5, 0),
    "signal_meta": (2, 0),
    "place_distortion": (2, 2),
    "version_encode": (3, 0),
    "version_decode": (1, 3),
}


@pytest.mark.parametrize("name", COST)
def test_what_a_question_costs(name):
    case = CodecCase(UnifiedTokenizer({"audio": Blocks()}), "audio")
    assert CHECKS[name].ask(case).passed
    assert (case.trial.calls["encode"], case.trial.calls["decode"]) == COST[name]
