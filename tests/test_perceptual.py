"""Metrics of what is seen and heard: known answers, and a sentence where there is none."""

import io
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from bench.photographs import photographs

import uti
from uti.audit.baseline import Baseline, metrics_with
from uti.audit.plan import AuditPlan
from uti.audit.report_json import read_record
from uti.audit.run import run_audit
from uti.audit.verify import verify
from uti.checks.base import CHECKS
from uti.checks.case import FreshProcesses
from uti.checks.registry import ask
from uti.cli.console import measured_by
from uti.comparison.references import through_opus
from uti.config import parse_config
from uti.files import packaged
from uti.metrics import perceptual_audio, perceptual_image, registry
from uti.metrics.base import Measurement, MetricError, measured
from uti.metrics.registry import METRICS, measure, metrics_of, tolerances_with
from uti.modalities.audio import load_audio, write_wav

PERCEPTUAL = [metric for metric in METRICS.values() if metric.tier == "perceptual"]
AUDIO = [metric.name for metric in PERCEPTUAL if metric.modality == "audio"]
BUILT = {
    "audio_pesq_wb": "pesq",
    "audio_visqol": "visqol",
}  # by a C++ compiler, which may not have been there


def metric(name):
    if name in BUILT:
        pytest.importorskip(BUILT[name])
    if (module := METRICS[name].optional) and not find_spec(module):
        pytest.skip(f"{module} is not installed")
    return METRICS[name].function


def audio(*waves):
    return [torch.from_numpy(np.array(wave, np.float64))[None] for wave in waves]


def image(*pixels):
    return [torch.from_numpy(one.copy()).movedim(-1, 0).float() / 255 for one in pixels]


def voice(rate=16_000, seconds=4.0):
    "Forty harmonics of a gliding pitch through three formants, syllables and pauses."
    t = np.arange(int(rate * seconds)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * t)) / rate
    first, second = 500 + 250 * np.sin(2 * np.pi * 1.3 * t), 1500 + 500 * np.sin(2 * np.pi * 0.9 * t + 1)
    wave = np.zeros_like(t)
    for harmonic in range(1, 41):
        f = 120 * harmonic
        formants = ((first, 120, 1), (second, 160, 0.5), (2700, 250, 0.2))
        gain = 0.01 + sum(size / (1 + ((f - at) / width) ** 2) for at, width, size in formants)
        wave += gain * np.sin(harmonic * phase + harmonic * harmonic)
    wave *= np.clip(np.sin(4 * np.pi * t), 0, 1) ** 0.5 * (np.sin(np.pi * t + 0.3) > -0.7)
    return 0.5 * wave / np.abs(wave).max()


def noisy(wave, decibels):
    noise = np.random.Generator(np.random.PCG64(0)).standard_normal(len(wave))
    return wave + math.sqrt((wave**2).mean() / 10 ** (decibels / 10)) * noise


def gratings(repeat=1):
    "uint8 [128 × repeat, 128 × repeat, 3] of three sine gratings."
    y, x = np.mgrid[0:128, 0:128]
    waves = [np.sin(x / 7), np.sin(y / 5), np.sin((x + y) / 11)]
    found = np.stack([128 + 100 * wave for wave in waves], -1).round().astype(np.uint8)
    return found.repeat(repeat, 0).repeat(repeat, 1)


def coarse(pixels):
    return (pixels.astype(int) // 16 * 16 + 8).astype(np.uint8)


def test_multi_resolution_stft_has_the_numbers_of_auraloss():
    distance, v = metric("audio_mr_stft"), voice()
    for estimate, value in ((noisy(v, 20), 5.11030), (np.round(v * 8) / 8, 1.54623)):
        assert distance(*audio(v, estimate), 16_000) == pytest.approx(value, rel=1e-4)
    assert distance(*audio(v, v), 16_000) == 0


# Images. The numbers of SSIMULACRA 2 are those of its authors' program.


@pytest.mark.parametrize(
    ("change", "value"),
    [(coarse, 81.994), (lambda a: np.roll(a, 1, 1), 67.514), (lambda a: (a * 0.9).astype(np.uint8), 57.154)],
    ids=["coarse", "shifted", "darker"],
)
def test_ssimulacra2_has_the_numbers_of_its_authors(change, value):
    a = gratings()
    assert metric("image_ssimulacra2")(*image(a, change(a))) == pytest.approx(value, abs=0.05)


PROGRAM = json.loads((Path(__file__).parent / "data" / "ssimulacra2.json").read_text())["scores"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "coffee")) for name in PROGRAM]
)
def test_ssimulacra2_has_the_scores_of_the_program(name):
    "54 pairs. Near 100 the program's float32 rounds."
    photo = photographs()[name]
    for quality, value in PROGRAM[name].items():
        PIL.Image.fromarray(photo).save(file := io.BytesIO(), "JPEG", quality=int(quality))
        decoded = np.array(PIL.Image.open(file).convert("RGB"))
        found = metric("image_ssimulacra2")(*image(photo, decoded))
        assert found == pytest.approx(value, abs=0.05 if value < 85 else 0.4), quality


def test_ssimulacra2_at_its_ends():
    function, a = metric("image_ssimulacra2"), gratings()
    assert function(*image(a, a)) == 100
    assert function(*image(np.zeros_like(a), np.full_like(a, 255))) == pytest.approx(-1097, abs=3)
    turned = [one.transpose(1, 0, 2) for one in (a, np.roll(a, 1, 1))]  # rows and columns alike
    assert function(*image(*turned)) == pytest.approx(function(*image(a, np.roll(a, 1, 1))), abs=0.01)


def test_ms_ssim_has_the_number_of_two_implementations():
    a = gratings(2)
    assert metric("image_ms_ssim")(*image(a, coarse(a))) == pytest.approx(0.97580, abs=2e-4)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (coarse, 0.0039797),
        (lambda a: np.roll(a, 1, 1), 0.0032107),
        (lambda a: (a * 0.9).astype(np.uint8), 0.0031356),
    ],
    ids=["coarse", "shifted", "darker"],
)
def test_st_lpips_has_the_numbers_of_its_package(change, value):
    a = gratings()
    assert metric("image_st_lpips")(*image(a, change(a))) == pytest.approx(value, rel=1e-3)
    assert metric("image_st_lpips")(*image(a, a)) == 0


def test_flip_has_the_ends_of_its_authors_and_falls_with_quality():
    function, a = metric("image_flip"), gratings()
    assert function(*image(a, a)) == 0
    assert function(*image(np.zeros_like(a), np.full_like(a, 255))) == pytest.approx(0.968, abs=0.002)
    assert function(*image(a, coarse(a))) < function(*image(a, coarse(coarse(a) // 2)))


@pytest.mark.parametrize("module", ["stlpips_pytorch", "resemblyzer", "flip_evaluator"])
def test_an_optional_metric_is_asked_only_where_its_package_is_installed(module, monkeypatch):
    asked = {one.optional: one for one in PERCEPTUAL}[module]
    there = find_spec(module) is not None
    assert (asked in metrics_of(asked.modality, perceptual=True)) is there
    monkeypatch.setattr(registry, "find_spec", lambda name: object())
    assert asked in metrics_of(asked.modality, perceptual=True)
    monkeypatch.setattr("uti.metrics.base.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "flip_evaluator", None)
    for cached in (perceptual_audio._voice_encoder, perceptual_image._st_weights):
        cached.cache_clear()
    signals = (
        image(gratings(), coarse(gratings()))
        if asked.modality == "image"
        else [*audio(voice(), voice()), 16_000]
    )
    found = measured(asked.function, *signals)
    assert found.value is None and f"needs {module}" in found.reason and "pip install" in found.reason


@pytest.mark.parametrize(("name", "side"), [("image_ssimulacra2", 112), ("image_ms_ssim", 160)])
def test_an_image_that_is_too_small_is_told(name, side):
    small = gratings(2)[:side, :200]
    with pytest.raises(MetricError, match=str(side + 1)):
        metric(name)(*image(small, small))


@pytest.mark.parametrize("name", ["image_ssimulacra2", "image_ms_ssim"])
@pytest.mark.parametrize(
    ("form", "qualities"), [("JPEG", (5, 20, 40, 95)), ("WEBP", (1, 30, 95)), ("AVIF", (5, 35, 70, 90))]
)
def test_a_better_file_scores_higher(name, form, qualities):
    photo = PIL.Image.open(packaged("assets") / "coffee.png").convert("RGB").resize((192, 192))
    scores = []
    for quality in qualities:
        photo.save(file := io.BytesIO(), form, quality=quality)
        decoded = np.array(PIL.Image.open(file).convert("RGB"))
        scores.append(metric(name)(*image(np.array(photo), decoded)))
    assert scores == sorted(scores) and scores[-1] - scores[0] > (20 if name == "image_ssimulacra2" else 0.02)


# Audio


def test_pesq_of_equal_audio_is_the_top_of_its_standard():
    top = 0.999 + 4 / (1 + math.exp(-1.3669 * 4.5 + 3.8224))
    assert metric("audio_pesq_wb")(*audio(voice(), voice()), 16_000) == pytest.approx(top, abs=1e-4)


@pytest.mark.parametrize(("decibels", "value"), [(20, 1.3349), (10, 1.0877), (0, 1.0331)])
def test_pesq_falls_with_noise(decibels, value):
    found = metric("audio_pesq_wb")(*audio(voice(), noisy(voice(), decibels)), 16_000)
    assert found == pytest.approx(value, abs=0.005)


@pytest.mark.parametrize(
    ("decibels", "plain", "extended"), [(20, 0.9963319, 0.9880918), (0, 0.8580454, 0.7270980)]
)
def test_stoi_and_estoi_have_the_numbers_of_two_implementations(decibels, plain, extended):
    signals = audio(voice(10_000), noisy(voice(10_000), decibels))
    assert metric("audio_stoi")(*signals, 10_000) == pytest.approx(plain, abs=1e-6)
    assert metric("audio_estoi")(*signals, 10_000) == pytest.approx(extended, abs=1e-6)


@pytest.mark.parametrize("name", ["audio_pesq_wb", "audio_stoi", "audio_estoi"])
def test_more_bits_of_opus_sound_better(name):
    wave, rate = load_audio(uti.examples()["speech.wav"])
    scores = [metric(name)(wave, through_opus(wave, kbps, rate)[0], rate) for kbps in (6, 8, 12, 24)]
    assert scores == sorted(scores) and scores[-1] - scores[0] > 0.03


@pytest.mark.slow  # two seconds of work a second
@pytest.mark.parametrize(("decibels", "value"), [(None, 4.732101), (20, 2.80870)])
def test_visqol_has_the_number_of_its_authors(decibels, value):
    wave = voice(48_000)
    other = wave if decibels is None else noisy(wave, decibels)
    assert metric("audio_visqol")(*audio(wave, other), 48_000) == pytest.approx(value, abs=2e-3)


def test_a_voice_has_the_number_of_the_package_whose_weights_tell_it():
    similarity = metric("audio_spk_similarity")
    assert similarity(*audio(voice(), noisy(voice(), 10)), 16_000) == pytest.approx(0.59531, abs=1e-3)
    assert similarity(*audio(voice(), voice()), 16_000) == pytest.approx(1, abs=1e-6)


def test_dnsmos_has_the_number_of_its_own_function():
    assert metric("audio_dnsmos_ovrl")(*audio(voice(), voice()), 16_000) == pytest.approx(2.20812, abs=0.005)


@pytest.mark.slow  # a recogniser begins four times
def test_words_are_heard_otherwise_where_noise_hides_them():
    wave, rate = load_audio(uti.examples()["speech.wav"])
    clean, loud = wave[0].double().numpy(), noisy(wave[0].double().numpy(), -5)
    function = metric("audio_dwer")
    assert function(*audio(clean, clean.copy()), rate) == 0
    again = [function(*audio(clean, loud), rate) for _ in range(2)]
    assert again[0] == again[1] > 0.3  # a recogniser that does not remember what it heard before


CASES = {
    "a silent reference": (lambda v: (0 * v, v), "the reference is silent"),
    "a silent estimate": (lambda v: (v, 0 * v), "the estimate is silent"),
    "one sample": (lambda v: (v[9999:10_000], v[9999:10_000] / 2), "s of audio, and there are 0.000 s"),
    "a fifth of a second": (
        lambda v: (v[9000:18_600], v[9000:18_600] / 2),
        "s of audio, and there are 0.200 s",
    ),
    "no number": (lambda v: (v, v + np.where(np.arange(len(v)) == 5, np.nan, 0)), "not finite"),
}


@pytest.mark.parametrize("name", AUDIO)
@pytest.mark.parametrize("case", CASES)
def test_where_there_is_nothing_to_hear_a_sentence_says_so(name, case):
    signals, why = CASES[case]
    found = measured(metric(name), *audio(*signals(voice(48_000))), 48_000)
    assert found.value is None and why in found.reason


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("audio_pesq_wb", "pesq"), ("audio_stoi", "pystoi"), ("audio_visqol", "visqol"),
        ("audio_dwer", "pocketsphinx"), ("image_ms_ssim", "pytorch_msssim"),
    ],
)  # fmt: skip
def test_a_package_that_is_not_there_is_a_reason(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    signals = (
        image(gratings(2), coarse(gratings(2)))
        if name.startswith("image")
        else [*audio(voice(), noisy(voice(), 20)), 16_000]
    )
    found = measured(METRICS[name].function, *signals)
    assert found.value is None and f"needs {module}" in found.reason and "uti[perceptual]" in found.reason


def test_nothing_of_the_tier_is_measured_or_imported_unless_it_is_asked_for():
    code = (
        "import sys, torch; from uti.metrics.registry import measure\n"
        "a = torch.rand(1, 16000); print(sorted(measure('audio', a, a * 0.5, 16000)))\n"
        "of = {'pesq', 'pystoi', 'visqol', 'onnxruntime', 'pocketsphinx', 'pytorch_msssim'}\n"
        "print(of & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(name in said for name in AUDIO) and said.endswith("set()\n")
    assert not {one.name for one in metrics_of("image")} & {one.name for one in PERCEPTUAL}
    assert {one.name for one in PERCEPTUAL if not one.optional} <= {
        one.name for m in ("image", "audio") for one in metrics_of(m, perceptual=True)
    }
    assert not tolerances_with({}).keys() & {one.name for one in PERCEPTUAL}
    assert tolerances_with({"audio_stoi": 0.1})["audio_stoi"] == 0.1


def test_metrics_of_speech_say_nothing_of_audio_that_is_not_labelled_so(monkeypatch):
    some = {name: METRICS[name] for name in ("audio_stoi", "audio_snr_db")}
    monkeypatch.setattr(registry, "METRICS", some)
    signals = [*audio(voice(), noisy(voice(), 20)), 16_000]
    found = measure("audio", *signals, perceptual=True)
    assert found["audio_stoi"].value is None and "not labelled as speech" in found["audio_stoi"].reason
    assert measure("audio", *signals, perceptual=True, speech=True)["audio_stoi"].value > 0.9


def test_a_record_keeps_what_computed_a_number():
    assert METRICS["audio_stoi"].facts.source == "pystoi 0.4.1"
    assert METRICS["audio_estoi"].facts.source == "pystoi 0.4.1, extended"
    assert (
        METRICS["image_ssimulacra2"].facts.source == "SSIMULACRA 2.1"
        and METRICS["image_psnr"].facts.source == ""
    )
    absent = METRICS["audio_stoi"].model_copy(update={"package": "no-such-package"})
    assert absent.facts.source == "no-such-package, not installed"


def test_a_round_trip_is_measured_as_it_is_heard(monkeypatch):
    some = {name: METRICS[name] for name in ("audio_stoi", "audio_snr_db")}
    monkeypatch.setattr(registry, "METRICS", some)
    codec = uti.load_codec("embedded-audio")
    path = uti.examples()["speech.wav"]  # labelled by its name
    assert set(uti.roundtrip(codec, path).metrics) == {"audio_snr_db"}
    assert uti.roundtrip(codec, path, perceptual=True).metrics["audio_stoi"].value > 0.5
    quiet = uti.roundtrip(codec, path, perceptual=True, speech=False).metrics["audio_stoi"]
    assert "not labelled as speech" in quiet.reason


# the others take seconds
FEW = {name: metric for name, metric in METRICS.items() if metric.tier == "core" or name == "audio_stoi"}


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    "An audit that was asked for the tier, of a clip that is labelled as speech and one that is not."
    home = tmp_path_factory.mktemp("audited")
    (home / "in").mkdir()
    wave, rate = load_audio(uti.examples()["speech.wav"])
    for name in ("speech", "other"):
        write_wav(home / "in" / f"{name}.wav", wave[:, :rate], rate)
    audio = {"codec": "embedded-audio", "options": {"n_codebooks": 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "METRICS", FEW)
        config = measured_by(parse_config({"audio": audio}), perceptual=True)
        for name in ("fresh_process", "fresh_process_decode", "repeatability"):
            patch.delitem(CHECKS, name)
        patch.setattr(FreshProcesses, "start", lambda self: None)  # whom nobody asks
        run_audit(AuditPlan(config, home / "out", home / "in"))
    return home


def test_an_audit_measures_what_it_is_asked_for(audited):
    report = json.loads((audited / "out" / "report.json").read_text())
    items = {item["name"]: item for item in report["items"]}
    assert items["speech.wav"]["speech"] and not items["other.wav"]["speech"]
    assert (
        0.3 < items["speech.wav"]["metrics"]["audio_stoi"]["value"] == report["metrics_v2"]["audio_stoi"] < 1
    )
    assert "not labelled as speech" in items["other.wav"]["metrics"]["audio_stoi"]["reason"]
    assert report["metric_facts"]["audio_stoi"]["source"] == "pystoi 0.4.1"
    assert report["config"]["perceptual"] and report["config"]["tolerances"]["audio_stoi"] == 0.02
    # the core tier alone is held to its own
    assert "audio_stoi" not in parse_config({"audio": "embedded-audio"}).tolerances


@pytest.mark.parametrize(("source", "gates"), [("pystoi 0.4.1", True), ("pystoi 0.3.3", False)])
def test_a_number_of_another_package_does_not_gate(audited, tmp_path, source, gates):
    path = shutil.copytree(audited / "out", tmp_path / "out") / "report.json"
    report = json.loads(path.read_text())
    report["metric_facts"]["audio_stoi"]["source"] = source
    for item in report["items"]:
        if item["name"] == "speech.wav":
            item["metrics"]["audio_stoi"]["value"] = 0.99
    path.write_text(json.dumps(report))
    record = read_record(audited / "out" / "report.json")
    baseline = Baseline(read_record(path), {})
    held = {one.item: one for one in metrics_with(baseline, record.items, {"audio_stoi": 0.02})}
    (answer,) = ask("metric with a baseline", held["audio_stoi"])
    if gates:
        assert answer.failed_gate and "audio_stoi fell by" in answer.detail
    else:
        assert answer.passed is None and "of 'pystoi 0.3.3', this run of 'pystoi 0.4.1'" in answer.detail


def test_a_number_that_is_lost_with_its_package_fails(audited):
    record = read_record(audited / "out" / "report.json")
    found = metrics_with(Baseline(record, {}), record.items, {"audio_stoi": 0.02})[0]
    absent = found.metric.model_copy(update={"package": "no-such-package"})
    none = {item: Measurement(value=None, reason="STOI needs pystoi") for item in found.now}
    (answer,) = ask("metric with a baseline", replace(found, metric=absent, now=none))
    assert answer.failed_gate and "has no value (STOI needs pystoi)" in answer.detail


def test_a_record_is_measured_again_by_the_same_metrics(audited, monkeypatch):
    monkeypatch.setattr(registry, "METRICS", FEW)
    found = {one.of: one.verdict for one in verify(audited / "out").findings if one.kind == "metrics"}
    assert found["audio_stoi of speech.wav"] in ("equal", "within tolerance")
