"""The main job as a user runs it: hashes that never change, baselines that gate, reports that render whatever
happens.
"""

import importlib
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import soundfile as sf
import torch
from broken_codecs import Tiles
from safetensors.torch import load_file, save_file
from small_codecs import Blocks, TwoWays

from uti.audit.baseline import item_with, load_baseline
from uti.audit.plan import AuditPlan, prepare
from uti.audit.record import AuditError
from uti.audit.report_json import legacy_keys, read_record, report_schema, to_report
from uti.audit.run import run_audit
from uti.checks.registry import ask
from uti.codecs import base
from uti.codecs.base import CodecError, Encoded
from uti.codecs.embedded.audio import EmbeddedAudio
from uti.codecs.embedded.image import EmbeddedImage
from uti.codecs.embedded.text import EmbeddedText
from uti.config import parse_config
from uti.errors import UTIError
from uti.modalities.image import load_image, write_png
from uti.pages.audit import verdict_of
from uti.publish import report
from uti.space import identity_hash, token_hash
from uti.tokens.tokenizer import UnifiedTokenizer

# The embedded codecs and the shipped assets. These change only with a new version of a codec, and then its
# `version` does, too.
HASHES = {
    "token_space": "dfcb2013929ee46c6824c0ff2cff3df2b5a08c4c28de4bf15b4215aec07a5d2a",
    "text_tokens": "de7c2090fe30e082fed07c0adb5ceb3392899422f888c4cfb7d7d36d45cb9874",
    "image_tokens": "262300efd8f3df08c12542fda0cbd288083c8461bec6f1b3cff249892d318282",
    "audio_tokens": "5f99ac6d3b098cfb62fe822ccac97a53f1a9864ef89ad1a40db97421f9e392dd",
}


EXAMPLE = Path(__file__).parent.parent / "reports" / "embedded"


@pytest.fixture(scope="session")
def audited(tmp_path_factory, uti_in):
    "The folder of an audit of the embedded codecs, on one thread."
    work = tmp_path_factory.mktemp("audit")
    result = uti_in(work, "audit", "--outdir", "out", "--token-space-out", "space/token_space.json")
    assert result.returncode == 0, result.stdout + result.stderr
    return work / "out"


@pytest.fixture(scope="session")
def fallen(tmp_path_factory, uti_in, small):
    "The folder of an audit held against a baseline that is better, and what the command said."

    def better(data):
        data["metrics_v2"]["image_psnr"] += 2
        for item in data["items"]:
            if item["modality"] == "image":
                item["metrics"]["image_psnr"]["value"] += 2
            elif item["modality"] == "audio":
                item["metrics"]["audio_log_mel_l1"]["value"] *= 0.5

    work = tmp_path_factory.mktemp("fallen")
    assert uti_in(work, "audit", "--outdir", "first", "--smoke-assets", small).returncode == 0
    then = ("--baseline-report", baseline(work / "first", work, better))
    return work / "out", uti_in(work, "audit", "--outdir", "out", "--smoke-assets", small, *then)


def test_the_hashes_are_those_written_down(audited):
    found = {name: (audited / f"{name}.sha256").read_text().strip() for name in HASHES}
    assert found == HASHES
    assert (audited.parent / "space" / "token_space.sha256").read_text().strip() == HASHES["token_space"]


@pytest.mark.slow  # a whole audit, which asks the same of each item
def test_the_same_hashes_with_two_threads(uti, tmp_path):
    result = uti("audit", "--outdir", "out", "--decode-mode", "none", OMP_NUM_THREADS="2")
    assert result.returncode == 0, result.stderr
    assert {name: (tmp_path / "out" / f"{name}.sha256").read_text().strip() for name in HASHES} == HASHES


def test_everything_that_is_promised_is_left_behind(audited):
    names = {p.relative_to(audited).as_posix() for p in audited.rglob("*") if p.is_file()}
    flat = {
        "report.json",
        "uti.yaml",
        "token_space.json",
        "recon.png",
        "report.intoto.json",
        "recon.wav",
        "tokens.safetensors",
        "uti_manifest.json",
        *(f"{name}.sha256" for name in HASHES),
    }
    pairs = {
        f"{kind}/{name}"
        for kind in ("original", "recon")
        for name in ("astronaut.png.png", "coffee.png.png", "music.wav.wav", "speech.wav.wav")
    }
    assert names == flat | pairs
    assert not [p for p in audited.parent.iterdir() if p.name.startswith(".")]


def test_the_committed_example_has_the_keys_and_hashes_of_a_run(audited):
    example = json.loads((EXAMPLE / "report.json").read_text())
    found = json.loads((audited / "report.json").read_text())
    assert list(found) == list(example)
    assert found["seconds"].keys() == example["seconds"].keys()
    for name in ("token_space", "token_space_sha256", "token_hashes", "codecs"):
        assert found[name] == example[name]
    keys = ("name", "source_sha256", "token_sha256", "meta", "original", "recon")
    assert [[item[key] for key in keys] for item in found["items"]] == [
        [item[key] for key in keys] for item in example["items"]
    ]


def test_the_report_fits_its_schema_and_has_the_earlier_names(audited):
    data = json.loads((audited / "report.json").read_text())
    jsonschema.validate(data, report_schema())
    assert (
        data["pass"] is True
        and data["decode_mode"] == "deterministic"
        and data["metrics_v2_checks"] == {}
        and data["metrics_v2_pass"] is None
        and data["metrics_v2_baseline"] is None
    )
    assert {name: value for name, value in data.items() if name in EARLIER} == EARLIER
    assert (
        data["metrics_v2"]["image_psnr"] == data["image_psnr"] > 24
        and data["metrics_v2"]["audio_snr_db"] == data["audio_snr_db"] > 4
    )
    assert all(
        type(data[name]) is float
        for name in (
            "audio_mae",
            "audio_log_mel_l1",
            "image_ssim",
            "audio_roundtrip_snr_db",
            "audio_roundtrip_mae",
        )
    )


EARLIER = {  # names and types of the earlier system, with the values of the shipped assets
    "text_deterministic": True, "image_deterministic": True, "audio_deterministic": True,
    "text_token_range_ok": True, "image_token_range_ok": True, "audio_token_range_ok": True,
    "audio_codebook_order_ok": True, "audio_shape_ok": True, "image_shape_ok": True,
    "image_token_count": 1024, "audio_token_count": 1920, "audio_sample_rate_ok": True,
    "audio_channels_ok": True,
    "audio_length_ok": True, "audio_length_expected": 76800, "audio_length_actual": 76800,
    "image_size_ok": True, "image_size_expected": [256, 256], "image_size_actual": [256, 256],
    "runtime_sizes": {"text": [4096], "image": [65536], "audio": [1024] * 8},
    "runtime_size_match": {"text": True, "image": True, "audio": True},
    "image_idempotent": False, "audio_idempotent": False, "image_decode_ok": True, "audio_decode_ok": True,
}  # fmt: skip


def baseline(audited, tmp_path, change) -> Path:
    data = json.loads((audited / "report.json").read_text())
    change(data)
    (tmp_path / "baseline.json").write_text(json.dumps(data))
    return tmp_path / "baseline.json"


def test_a_better_baseline_fails_the_run_and_says_by_how_much(fallen):
    folder, result = fallen
    assert "[3/7] decoding" in result.stderr  # plain lines where nobody watches
    assert result.returncode == 1 and re.search(
        r"image_psnr fell by 2, from [\d.]+ to [\d.]+; at least [\d.]+ passes", result.stdout
    )
    assert "audio_log_mel_l1 rose by" in result.stdout and "FAILED" in result.stdout
    record, data = read_record(folder / "report.json"), json.loads((folder / "report.json").read_text())
    assert not record.passed and [name for name, check in record.held.items() if not check.passed] == [
        "image_psnr",
        "audio_log_mel_l1",
    ]
    assert (
        data["metrics_v2_checks"]
        == {"audio_snr_db": True, "audio_log_mel_l1": False, "image_psnr": False, "image_ssim": True}
        and data["metrics_v2_pass"] is False
    )
    assert data["metrics_v2_baseline"]["image_psnr"] == pytest.approx(data["image_psnr"] + 2)


def drifted(name: str):
    "A change of a baseline: the hash of the item `name`."

    def change(data):
        next(i for i in data["items"] if i["name"] == name)["token_sha256"] = "0" * 64

    return change


def drift(tmp_path, path) -> dict:
    "The answers to whether the ids of the shipped assets are those of the baseline in `path`, by item."
    prepared = prepare(AuditPlan(None, tmp_path / "out", decode_mode="none", baseline=path))
    return {
        case.item: ask("item with a baseline", item_with(prepared.baseline, case.encode()))[0]
        for case in prepared.cases
    }


@pytest.fixture(scope="module")
def texts(tmp_path_factory, uti_in):
    "A folder with a config of the text codec alone, and its audit in `out`."
    folder = tmp_path_factory.mktemp("texts")
    (folder / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    assert uti_in(folder, "audit", "--outdir", "out", "--config", "uti.yaml").returncode == 0
    return folder


@pytest.mark.run
def test_one_items_other_ids_are_noticed_and_named(texts, tmp_path, uti_in):
    then = baseline(texts / "out", tmp_path, drifted("scripts"))
    again = ("--config", "uti.yaml", "--baseline-report", then, "--outdir", tmp_path / "out")
    result = uti_in(texts, "audit", *again)
    assert result.returncode == 1
    assert (
        "✗ baseline_ids, text, scripts: the ids are not those of the baseline: sha256" in result.stdout
        and result.stdout.count("✗") == 1
    )


def test_a_baseline_whose_every_hash_is_zeros_does_not_pass(audited, tmp_path):
    def zeros(data):
        data["token_hashes"] = dict.fromkeys(data["token_hashes"], "0" * 64)
        for item in data["items"]:
            item["token_sha256"] = "0" * 64

    answers = drift(tmp_path, baseline(audited, tmp_path, zeros))
    assert len(answers) == 10 and all(answer.failed_gate for answer in answers.values())


def test_a_codec_that_is_not_invariant_is_counted_and_not_gated(tmp_path, small):
    class Wavers(TwoWays):
        spec = replace(TwoWays.spec, invariant=False)

        def _encode(self, signals, lengths):
            codes, metas = super()._encode(signals, lengths)
            return Encoded((codes + 1) % 256, metas)

    def plan(codec, **more):
        return AuditPlan(
            UnifiedTokenizer({"image": codec}),
            tmp_path / type(codec).__name__,
            small,
            decode_mode="none",
            **more,
        )

    first = TwoWays()
    first.spec = Wavers.spec
    run_audit(plan(first))
    record = run_audit(plan(Wavers(), baseline=tmp_path / "TwoWays" / "report.json"))
    answer = next(c for c in record.checks if c.name == "baseline_ids")
    assert (
        record.passed
        and (answer.passed, answer.gates, answer.found) == (False, False, 1)
        and "1 of 1 ids differ, first in codebook 0 at position 0" in answer.detail
    )


def test_where_ids_lie_beside_the_baseline_the_first_that_differs_is_named(audited, tmp_path):
    ids = load_file(audited / "tokens.safetensors")
    assert {name: token_hash(line) for name, line in ids.items()} == {
        f"{i.modality}/{i.name}": i.token_sha256 for i in read_record(audited / "report.json").items
    }
    line = ids["audio/speech.wav"]
    line[3 * 8 + 5] += 1  # frames of 8 codebooks
    line[9 * 8 + 2] += 1
    save_file(ids, tmp_path / "tokens.safetensors")
    same = baseline(
        audited,
        tmp_path,
        lambda data: next(i for i in data["items"] if i["name"] == "speech.wav").update(
            token_sha256=token_hash(line)
        ),
    )
    failed = {name: answer.detail for name, answer in drift(tmp_path, same).items() if not answer.passed}
    assert failed == {
        "speech.wav": (
            f"the ids are not those of the baseline: 2 of {len(line)} ids differ, first in codebook 5 at "
            "position 3"
        )
    }


@pytest.mark.run
def test_a_baseline_that_did_not_pass_is_named_and_where_no_metric_was_asked_none_has_passed(
    texts, tmp_path, uti_in
):
    then = baseline(texts / "out", tmp_path, lambda data: data.update({"pass": False}))
    again = ("--config", "uti.yaml", "--baseline-report", then, "--outdir", tmp_path / "second")
    result = uti_in(texts, "audit", *again)
    assert result.returncode == 0 and "did not pass itself" in result.stdout
    data = json.loads((tmp_path / "second" / "report.json").read_text())
    assert data["pass"] is True and data["metrics_v2_pass"] is None and data["metrics_v2_checks"] == {}
    assert any(c["name"] == "baseline_passed" and c["passed"] is False for c in data["checks"])


def test_the_decoder_that_the_plan_names_is_the_one_that_runs_and_objects_are_audited_too(tmp_path, small):
    tokenizer = UnifiedTokenizer({"image": TwoWays(), "text": EmbeddedText()})
    prepared = {
        mode: prepare(AuditPlan(tokenizer, tmp_path / mode, small, decode_mode=mode))
        for mode in ("deterministic", "diffusion", "none")
    }  # all on the same codecs
    for mode, plan in prepared.items():
        record = run_audit(plan)
        assert record.decoders == {
            "image": None if mode == "none" else mode,
            "text": None if mode == "none" else "deterministic",
        }
        assert record.config is None and record.passed
        if mode != "none":
            assert load_image(tmp_path / mode / "recon.png").getextrema() == (
                ((64, 64),) * 3 if mode == "deterministic" else ((191, 191),) * 3
            )
    tokens = tokenizer.encode_image(small / "coffee.png")
    assert abs(tokenizer.decode_image(*tokens).pixels.max() - 0.25) < 1e-3  # the first that it has
    assert abs(tokenizer.decode_image(*tokens, mode="diffusion").pixels.min() - 0.75) < 1e-3
    with pytest.raises(CodecError, match="'two-ways' has no fast decoder; it has deterministic, diffusion"):
        tokenizer.decode_image(*tokens, mode="fast")
    with pytest.raises(AuditError, match="'embedded-text' has no diffusion decoder"):
        prepare(
            AuditPlan(
                UnifiedTokenizer({"text": EmbeddedText()}), tmp_path / "x", small, decode_mode="diffusion"
            )
        )


@pytest.mark.run
def test_a_sample_is_normalised_once_and_encoded_as_often_as_is_asked(tmp_path, small, monkeypatch):
    seen, calls = [], Counter()
    for codec in (EmbeddedText, EmbeddedImage, EmbeddedAudio):
        for name in ("_encode", "_decode"):
            whole = getattr(codec, name)
            monkeypatch.setattr(
                codec,
                name,
                lambda self, *given, name=name, whole=whole: (
                    calls.update([self.spec.modality + name]) or whole(self, *given)
                ),
            )
    normalise = UnifiedTokenizer.normalise
    monkeypatch.setattr(
        UnifiedTokenizer,
        "normalise",
        lambda self, modality, signal: seen.append(signal) or normalise(self, modality, signal),
    )
    monkeypatch.setattr("uti.audit.run.codec_cases", lambda prepared: [])  # probes are another matter
    prepared = prepare(AuditPlan(None, tmp_path / "out", small))
    assert len(seen) == len(prepared.samples)
    run_audit(prepared)
    again = [signal for signal in seen[len(prepared.samples) :] if not isinstance(signal, str)]
    assert len(again) == 2  # what was decoded, an image and audio, for the round trip
    assert not any(signal is s.signal for signal in again for s in prepared.samples)
    # its tokens · again · other threads · in a batch · after the round trip; two more by the fresh processes
    # audio also with one codebook and with half of them; both three times for the fingerprint
    assert (calls["image_encode"], calls["audio_encode"]) == (8, 10)
    # its reconstruction · again · after the round trip
    assert (calls["image_decode"], calls["audio_decode"]) == (3, 5)


def of_version_0(data):
    identity = data["token_space"]["codecs"]["image"]
    identity["version"] = "0"
    identity["sha256"] = identity_hash(identity)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (of_version_0, "another token space or codec cannot be compared: image: version 2 here, 0 there"),
        (lambda d: d["token_space"]["codecs"]["image"].update(version="0"), "codec of image was changed"),
        (
            lambda d: d["token_space"].pop("codecs"),
            "does not say which codec made its ids of audio, image, text",
        ),
        (
            lambda d: d["items"][-1].update(source_sha256="0" * 64),
            "a baseline of other files cannot be compared",
        ),
        (lambda d: d["token_space"]["ranges"].pop(), "not contiguous"),
    ],
)
def test_a_baseline_of_something_else_is_refused(audited, tmp_path, uti_here, change, told):
    result = uti_here("audit", "--outdir", "out", "--baseline-report", baseline(audited, tmp_path, change))
    assert result.returncode == 2 and told in result.stderr and not (tmp_path / "out").exists()


def replaced(key, value):
    "A change of a baseline's text: the mean of image_psnr, or another field, is the JSON `value`."
    return lambda data: data.update(
        {key: {**data[key], "image_psnr": value} if key == "metrics_v2" else value}
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (replaced("metrics_v2", math.nan), "NaN is no number"),
        (replaced("metrics_v2", math.inf), "Infinity is no number"),
        (replaced("metrics_v2", 10**400), "metrics.image_psnr"),
        (replaced("metrics_v2", -1e308), "image_psnr is -1e+308, which no image_psnr is"),
        (replaced("metrics_v2", -1), "image_psnr is -1, which no image_psnr is"),
        (replaced("metrics_v2", "30"), "metrics.image_psnr"),
        (replaced("metrics_v2", True), "metrics.image_psnr"),
        (replaced("codecs", {"image": []}), "codecs.image"),
        (replaced("items", []), "a baseline of other files cannot be compared"),
        (replaced("items", {}), "items"),
        (replaced("checks", [[]]), "checks"),
        (replaced("token_space", {}), "not a token space"),
        (replaced("token_space", []), "token_space"),
        (replaced("schema_version", 2), "schema_version"),
    ],
)
def test_a_baseline_with_a_wrong_value_is_one_sentence(audited, tmp_path, loaded, change, told):
    path = baseline(audited, tmp_path, change)
    with pytest.raises(UTIError, match=re.escape(told)) as error:
        load_baseline(path, loaded.tokenizer, loaded.samples)
    assert str(error.value).count("\n") == 0 and len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("digits", "told"), [("1e400", "1e400 is no number"), ("1" * 5000, "not a report.json")]
)
def test_a_number_that_only_json_can_hold_is_no_mean(audited, tmp_path, loaded, digits, told):
    text = baseline(audited, tmp_path, replaced("metrics_v2", 12345.5)).read_text()
    (tmp_path / "baseline.json").write_text(text.replace("12345.5", digits))
    with pytest.raises(AuditError, match=told):
        load_baseline(tmp_path / "baseline.json", loaded.tokenizer, loaded.samples)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    "The plan of the audit of the embedded codecs, prepared."
    return prepare(AuditPlan(None, tmp_path_factory.mktemp("loaded") / "out", decode_mode="none"))


def test_a_baseline_of_another_token_space_is_refused(audited, tmp_path, uti_here):
    (tmp_path / "uti.yaml").write_text(
        "text: {codec: embedded-text}\nimage: {codec: embedded-image}\naudio: {codec: embedded-audio, "
        "options: {n_codebooks: 4}}\n"
    )
    result = uti_here(
        "audit", "--outdir", "out", "--config", "uti.yaml", "--baseline-report", audited / "report.json"
    )
    assert result.returncode == 2
    assert "another token space or codec cannot be compared: AUDIO_CB4: absent here" in result.stderr


@pytest.mark.run
@pytest.mark.parametrize("serialisation", ["delay", "coarse_first"])
def test_other_orders_and_clips_pass_too(serialisation, tmp_path):
    config = parse_config(
        {
            "audio": {"codec": "embedded-audio", "options": {"n_codebooks": 3}},
            "serialisation": serialisation,
            "clip_seconds": 0.5,
        }
    )
    report = run_audit(AuditPlan(config, tmp_path / "out"))
    assert report.passed and {item.n_tokens for item in report.items} == {3 * 38}
    assert report.config["serialisation"] == serialisation


@pytest.mark.run
def test_what_is_left_out_or_odd_is_said_in_the_record_and_on_the_terminal(tmp_path, uti_here):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "note.TXT").write_text("a text is enough for a text codec")
    (folder / "film.mkv").write_text("no")
    sf.write(folder / "loud.wav", np.full(2_400, 3_000.0), 24_000, subtype="FLOAT")
    result = uti_here("audit", "--text", "embedded-text", "--smoke-assets", folder, "--outdir", "out")
    assert result.returncode == 0 and "note.TXT" in (tmp_path / "out" / "report.json").read_text()
    told = " ".join(result.stdout.split())
    assert "not audited: film.mkv (.mkv is not read), loud.wav (there is no audio codec)" in told
    plan = AuditPlan(parse_config({"audio": "embedded-audio"}), tmp_path / "loud", folder)
    assert any("loud.wav: 100% of the samples" in told for told in run_audit(plan).warnings)


def test_without_decoding_the_ids_are_still_audited(loaded, small, tmp_path):
    tokenizer = UnifiedTokenizer({"image": loaded.tokenizer.codec("image")})
    report = run_audit(AuditPlan(tokenizer, tmp_path / "out", small, decode_mode="none"))
    flat = legacy_keys(report)
    assert report.passed and flat["image_psnr"] is None and flat["image_token_range_ok"]
    assert not (tmp_path / "out" / "recon").exists()


@pytest.mark.run
def test_somebody_elses_folder_and_codec(third_party, tmp_path, uti_here, assets, monkeypatch):
    (tmp_path / "mine").mkdir()
    for source, name in ((assets / "coffee.png", "a b.PNG"), (assets / "astronaut.png", "c.png")):
        (tmp_path / "mine" / name).write_bytes(source.read_bytes())
    (tmp_path / "mine" / "note.txt").write_text("ignored: there is no text codec here")
    (tmp_path / "uti.yaml").write_text("image: {codec: stripes}\n")
    load_stripes(third_party, monkeypatch)
    result = uti_here("audit", "--config", "uti.yaml", "--smoke-assets", "mine", "--outdir", "out")
    assert result.returncode == 0, result.stdout + result.stderr
    report = read_record(tmp_path / "out" / "report.json")
    assert [item.name for item in report.items] == ["a b.PNG", "c.png"]
    assert report.codecs["image"]["licence"] == "MIT"
    assert "stripes" in uti_here("codecs").stdout
    base._installed.cache_clear()


def load_stripes(third_party, monkeypatch):
    monkeypatch.syspath_prepend(str(third_party))
    base._installed.cache_clear()
    importlib.invalidate_caches()


@pytest.mark.run
def test_a_run_that_breaks_leaves_the_report_that_was_there(tmp_path, small, monkeypatch):
    codec, folder = TwoWays(), tmp_path / "reports" / "mine"
    record = report(codec, folder, assets=small)
    before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    monkeypatch.setattr("uti.audit.run.measure_case", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report(codec, folder, assets=small)
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before
    page = (folder / "index.html").read_text()
    assert record.passed and "two-ways" in page and "they stay in this process" in page


@pytest.mark.run
def test_a_run_can_be_held_against_the_one_that_it_replaces(fallen, tmp_path, uti_here, small):
    shutil.copytree(fallen[0].parent / "first", tmp_path / "reports" / "mine")
    first = (tmp_path / "reports" / "mine" / "report.json").read_text()
    mine = ("--outdir", "reports/mine", "--smoke-assets", small)
    again = uti_here("audit", *mine, "--baseline-report", "reports/mine/report.json")
    assert again.returncode == 0, again.stdout + again.stderr
    report = read_record(tmp_path / "reports" / "mine" / "report.json")
    assert (
        to_report(report)["metrics_v2_pass"] is True
        and len(report.held) == 4
        and all(c.passed for c in report.checks if c.name == "baseline_ids")
    )
    assert json.loads((tmp_path / "reports" / "mine" / "baseline_report.json").read_text()) == json.loads(
        first
    )


class Fussy(Tiles):
    "Does not take bright images, nor decode dark ones."

    def _encode(self, signals, lengths):
        if signals.mean() > 0.8:
            raise RuntimeError("too bright")
        return super()._encode(signals, lengths)

    def _decode(self, codes, meta):
        if len(codes) == 1 and not codes.any():
            raise MemoryError
        return super()._decode(codes, meta)


def test_a_codec_that_raises_on_one_file_fails_there_and_the_others_are_audited(tmp_path):
    (tmp_path / "images").mkdir()
    for name, grey in {"bright": 250, "dark": 0, "grey": 90}.items():
        write_png(tmp_path / "images" / f"{name}.png", torch.full((3, 64, 64), grey / 255))
    plan = AuditPlan(UnifiedTokenizer({"image": Fussy()}), tmp_path / "out", tmp_path / "images")
    record = run_audit(plan)
    assert not record.passed and [item.name for item in record.items] == ["dark.png", "grey.png"]
    assert "codes, image, bright.png: raised RuntimeError: too bright" in record.failed
    assert any(said.startswith("size, image, dark.png: ran out of memory") for said in record.failed)
    assert [item.name for item in record.items if item.metrics] == ["grey.png"]
    assert "bright.png: raised RuntimeError: too bright" in verdict_of(record)


def test_of_nothing_nothing_is_encoded():
    tokenizer = UnifiedTokenizer({"image": Tiles(), "audio": Blocks()})
    assert tokenizer.encode_images([]) == tokenizer.encode_audios([]) == []


class Nowhere(Tiles):
    "Decodes to nothing that is a number."

    def _decode(self, codes, meta):
        return super()._decode(codes, meta) * torch.nan


def test_what_is_no_number_fails_and_is_no_file(tmp_path):
    (tmp_path / "images").mkdir()
    write_png(tmp_path / "images" / "grey.png", torch.full((3, 64, 64), 0.4))
    record = run_audit(
        AuditPlan(UnifiedTokenizer({"image": Nowhere()}), tmp_path / "out", tmp_path / "images")
    )
    assert any(said.startswith("finite, image, grey.png") for said in record.failed)
    assert record.items[0].original and record.items[0].recon is None
    assert record.metrics["image_psnr"].number is None
    assert not any(path.name.startswith("recon.") for path in (tmp_path / "out").iterdir())
