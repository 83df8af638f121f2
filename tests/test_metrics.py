"""Metrics against closed forms, against each other, and against what they must refuse."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d

from uti.checks.baseline import metrics_with_baseline
from uti.checks.registry import ask
from uti.compat import torchaudio
from uti.config import ConfigError, parse_config
from uti.metrics.audio import aligned_snr_db, log_mel, log_mel_l1, mae, si_sdr_db, snr_db
from uti.metrics.base import Mean, Measurement, Metric, MetricError, mean_of, measured
from uti.metrics.codebooks import codebook_use
from uti.metrics.image import error_map, psnr, ssim, ssim_gaussian
from uti.metrics.registry import (
    METRICS,
    measure,
    metrics_of,
    register_metric,
    tolerances_with,
)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_snr_does_not_depend_on_level_nor_si_sdr_on_the_estimates(seed, gain):
    a, b = noise(seed, 2, 500), noise(seed + 1, 2, 500)
    assert snr_db(a * gain, b * gain) == pytest.approx(snr_db(a, b), abs=1e-3)
    assert si_sdr_db(a, (a + b) * gain) == pytest.approx(si_sdr_db(a, a + b), abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(-40, 40))
def test_the_delay_is_found(delay):
    wave = noise(0, 1, 2000)
    snr, found = aligned_snr_db(wave, torch.roll(wave, delay, 1) + 1e-3 * noise(1, 1, 2000), 50)
    assert found == delay and snr > 50


@pytest.mark.parametrize(
    "metric",
    [
        snr_db,
        si_sdr_db,
        mae,
        psnr,
        ssim,
        ssim_gaussian,
        lambda a, b: log_mel_l1(a, b, 24_000),
        aligned_snr_db,
    ],
)
def test_what_cannot_be_compared_is_refused(metric):
    a = torch.rand(3, 32, 32)
    for b in (a, a[:, 1:], a.view(3, 32, 32), torch.full_like(a, math.nan)):
        with pytest.raises(MetricError):
            metric(a, b)


@pytest.mark.parametrize(
    "metric", [snr_db, si_sdr_db, mae, psnr, ssim, ssim_gaussian, lambda a, b: log_mel_l1(a, b, 24_000)]
)
def test_arrays_gradients_and_half_precision_are_measured_alike(metric):
    a, b = (noise(seed, 3, 16, 16).half().float().sigmoid().half() for seed in (0, 1))
    value = metric(a, b)
    assert (
        metric(a.numpy(), b.numpy())
        == metric(a.double(), b.double())
        == metric(a.float().requires_grad_(), b.float())
        == value
    )


def test_a_sound_is_measured_as_by_hand():
    a = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    b = torch.tensor([[1.5, -2.0], [2.0, -1.0]])
    assert mae(a, b) == 0.625
    assert snr_db(a, b) == pytest.approx(10 * math.log10(14 / 2.25))
    found = measure("audio", a, b, 24_000)
    assert {name: m.value for name, m in found.items()} == {
        "audio_snr_db": snr_db(a, b),
        "audio_aligned_snr_db": aligned_snr_db(a, b)[0],
        "audio_si_sdr_db": si_sdr_db(a, b),
        "audio_mae": mae(a, b),
        "audio_log_mel_l1": log_mel_l1(a, b, 24_000),
        "audio_mr_stft": None,
    }
    assert "needs more than 1,024 samples, got 2" in found["audio_mr_stft"].reason
    again = measure("audio", a, b, 24_000, "round trip")
    assert {name: m.value for name, m in again.items()} == {
        "audio_roundtrip_snr_db": snr_db(a, b),
        "audio_roundtrip_mae": mae(a, b),
    }


def test_silence_has_no_ratio():
    silent, wave = torch.zeros(1, 100), noise(0, 1, 100)
    for metric in (snr_db, si_sdr_db, aligned_snr_db):
        with pytest.raises(MetricError, match="silent"):
            metric(silent, wave)
    with pytest.raises(MetricError, match="silent"):
        si_sdr_db(wave, silent)


def test_si_sdr_is_the_snr_of_what_is_at_right_angles():
    a = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    off = torch.tensor([[0.1, -0.1, 0.1, -0.1]])
    assert si_sdr_db(a, 5 * (a + off)) == pytest.approx(20, abs=1e-4)
    assert si_sdr_db(a, off) == -math.inf


def test_a_few_samples_at_the_end_do_not_make_a_delay():
    reference, estimate = torch.zeros(1, 100), torch.zeros(1, 100)
    reference[0, 0], estimate[0, 99] = 1.0, 1.0
    reference[0, 1:], estimate[0, :99] = noise(0, 99), noise(1, 99)
    assert abs(aligned_snr_db(reference, estimate, 99)[1]) <= 50


def test_at_the_best_delay_the_overlap_is_compared():
    wave, more = noise(0, 2, 200), noise(1, 2, 200)
    late, early = (torch.roll(wave, delay, 1) + 0.1 * more for delay in (64, -64))
    assert aligned_snr_db(wave, late) == (pytest.approx(snr_db(wave[:, :-64], late[:, 64:])), 64)
    assert aligned_snr_db(wave, early) == (pytest.approx(snr_db(wave[:, 64:], early[:, :-64])), -64)
    assert aligned_snr_db(wave, torch.roll(wave, 65, 1))[1] != 65  # 64 at most, where nothing is said
    half = torch.cat([more[:, :100], wave[:, :100]], 1)
    assert aligned_snr_db(wave, half, 199) == (math.inf, 100)
    assert aligned_snr_db(torch.ones(1, 50), 2 * torch.ones(1, 50)) == (0, 0)  # any delay is as good


@pytest.mark.parametrize("limit", [50, -50, 49])
def test_a_delay_is_looked_for_up_to_the_limit_and_no_further(limit):
    wave = noise(0, 1, 2000)
    _, found = aligned_snr_db(wave, torch.roll(wave, 50, 1), limit)
    assert (found == 50) == (abs(limit) == 50) and abs(found) <= abs(limit)


@pytest.mark.parametrize("shape", [(3, 8), (1, 8, 8), (4, 8, 8), (3, 8, 8, 1), (1, 3, 8, 8)])
def test_a_picture_has_three_channels_rows_and_columns(shape):
    for metric in (psnr, ssim, ssim_gaussian, error_map):
        with pytest.raises(MetricError, match=r"images must be \[3, H, W\]"):
            metric(torch.zeros(shape), torch.ones(shape))


def test_log_mel_is_the_definition():
    wave = noise(0, 2, 5000) * 0.1
    mel = torchaudio.transforms.MelSpectrogram(24_000, n_fft=1024, hop_length=256, n_mels=80)(wave)
    assert torch.allclose(log_mel(wave, 24_000).float(), (mel + 1e-6).log(), atol=1e-4)
    assert log_mel_l1(wave, wave * 0, 24_000) == pytest.approx(
        ((mel + 1e-6).log() - math.log(1e-6)).abs().mean().item(), rel=1e-5
    )
    with pytest.raises(MetricError, match=r"sample rate"):
        log_mel(wave, 0)
    padded = torch.nn.functional.pad(wave[:, :1000], (0, 24))
    assert torch.equal(log_mel(wave[:, :1000], 24_000), log_mel(padded, 24_000))


def test_float32_would_have_lost_it():
    a = torch.ones(1, 1_000_000)
    assert snr_db(a, a + 1e-4) == pytest.approx(80, abs=0.02)


def test_psnr_and_ssim_know_the_range():
    a = (
        torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    )  # a dark image: a guessed range would flatter
    assert psnr(a, a + 0.01) == pytest.approx(40, abs=1e-3)
    assert ssim(a, 1 - a) < 0.1
    for b in (a * 255, a - 0.2, a * 15):
        with pytest.raises(MetricError, match=r"outside \[0, 1\]"):
            psnr(a, b)


def similarity(a, b, window, sample):
    "SSIM of two channels by its formula (Wang et al. 2004, equation 13), where the whole window is inside."

    def mean(x):
        return convolve2d(x, window, mode="valid")

    n = window.size / (window.size - 1) if sample else 1
    va, vb, cov = (n * (mean(x * y) - mean(x) * mean(y)) for x, y in ((a, a), (b, b), (a, b)))
    up = (2 * mean(a) * mean(b) + 0.01**2) * (2 * cov + 0.03**2)
    return (up / ((mean(a) ** 2 + mean(b) ** 2 + 0.01**2) * (va + vb + 0.03**2))).mean()


def test_each_ssim_looks_through_its_own_window():
    a, b = (torch.rand(3, 24, 31, generator=torch.Generator().manual_seed(i)).double() for i in (0, 1))
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    windows = {
        ssim: (np.full((7, 7), 1 / 49), True),
        ssim_gaussian: (np.outer(bell, bell) / bell.sum() ** 2, False),
    }
    for metric, (window, sample) in windows.items():
        wanted = np.mean(
            [similarity(x, y, window, sample) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
        )
        assert metric(a, b) == pytest.approx(wanted, abs=1e-12)
    for metric, side in ((ssim, 7), (ssim_gaussian, 11)):
        assert metric(a[:, :side, :side], b[:, :side, :side]) < 1
        with pytest.raises(MetricError, match=f"window of {side}×{side}"):
            metric(a[:, : side - 1], b[:, : side - 1])


def test_why_a_ratio_is_infinite_is_said():
    a = noise(0, 1, 100)
    assert "equals its reference" in measured(si_sdr_db, a, a.clone()).reason
    assert "differs from its reference in nothing that is measured" in measured(si_sdr_db, a, 2 * a).reason


def test_the_error_map_shows_where():
    a = torch.zeros(3, 4, 5)
    b = a.clone()
    b[1, 2, 3] = 0.6
    expected = torch.zeros(4, 5, dtype=torch.float64)
    expected[2, 3] = 0.2
    assert torch.allclose(error_map(a, b), expected)


@pytest.mark.parametrize(
    ("codes", "sizes"), [([[4]], (4,)), ([[-1]], (4,)), ([[0], [0]], (4,)), ([[]], (4,)), ([0, 1], (4,))]
)
def test_codes_that_fit_no_codebook_are_refused(codes, sizes):
    with pytest.raises(MetricError):
        codebook_use(torch.tensor(codes, dtype=torch.int64), sizes)


def test_the_use_of_codebooks_is_counted_as_by_hand():
    assert codebook_use(torch.tensor([[0, 0, 1, 3], [2, 2, 2, 2]]), (5, 3)) == [
        {"size": 5, "n_codes": 4, "entropy_bits": 1.5, "perplexity": 2**1.5, "used": 3, "unused": 2},
        {"size": 3, "n_codes": 4, "entropy_bits": 0.0, "perplexity": 1.0, "used": 1, "unused": 2},
    ]


@given(st.integers(1, 64))
def test_perplexity_of_an_even_use_is_its_size(n):
    use = codebook_use(torch.arange(n).repeat(3)[None], (64,))[0]
    assert use["perplexity"] == pytest.approx(n) and use["unused"] == 64 - n


def of(**values):
    "Item → its value; infinite ones are kept by their sign, None is what has none."
    return {
        item: Measurement(value=None, reason="silent")
        if value is None
        else measured(lambda *_, value=value: value, torch.ones(1), torch.ones(1))
        for item, value in values.items()
    }


def gates(now, before, given=None):
    "The answers whether the metrics of the items `now` are as good as `before`."
    facts = {name: METRICS[name].facts for name in before}
    held = metrics_with_baseline(now, before, tolerances_with(given or {}), facts)
    return [ask("metric with a baseline", one)[0] for one in held]


def test_a_failed_metric_is_null_with_its_reason_and_fails_its_gate():
    metric = measured(snr_db, torch.zeros(1, 10), torch.ones(1, 10))
    assert metric.value is metric.number is None and "silent" in metric.reason
    (gate,) = gates({"audio_snr_db": {"a": metric}}, {"audio_snr_db": of(a=3.0)})
    assert gate.failed_gate and gate.found is gate.expected is None
    assert gate.detail == f"audio_snr_db of a has no value ({metric.reason}); there it is 3"
    (gate,) = gates({}, {"audio_snr_db": of(a=3.0)})
    assert not gate.passed and "has no value (not measured)" in gate.detail


def test_an_infinite_value_is_null_and_keeps_its_sign():
    exact = measured(snr_db, torch.ones(1, 10), torch.ones(1, 10))
    assert (exact.value, exact.infinite, exact.number) == (None, 1, math.inf)
    assert [m.number for m in of(a=-math.inf, b=math.nan, c=2.0).values()] == [-math.inf, None, 2.0]


@pytest.mark.parametrize(
    ("before", "now", "passed"),
    [
        (dict(a=math.inf, b=10.8), dict(a=24.4, b=10.8), False),  # the mean of what is finite rose
        (dict(a=24.4, b=10.8), dict(a=math.inf, b=10.8), True),  # and here it fell
        (dict(a=math.inf), dict(a=math.inf), True),
        (dict(a=math.inf), dict(a=90.0), False),
        (dict(a=-math.inf, b=5.0), dict(a=-math.inf, b=5.0), True),
        (dict(a=-math.inf, b=5.0), dict(a=1.0, b=5.0), True),
        (dict(a=1.0, b=5.0), dict(a=-math.inf, b=5.0), False),
        (dict(a=None, b=5.0), dict(a=1.0, b=5.0), True),
        (dict(a=1.0, b=5.0), dict(a=None, b=50.0), False),
        (dict(a=1.0, b=5.0), dict(a=0.5, b=5.4), True),  # the mean is within its tolerance
        (dict(a=1.0), dict(a=1.0, c=-50.0), True),  # c is no item of the baseline
    ],
)
def test_what_is_infinite_or_missing_does_not_turn_a_gate_round(before, now, passed):
    (gate,) = gates({"image_psnr": of(**now)}, {"image_psnr": of(**before)})
    assert gate.passed is passed and bool(gate.detail) is not passed, gate


def test_a_metric_that_had_no_value_does_not_gate():
    assert not gates({"image_psnr": of(a=3)}, {"image_psnr": of(a=None)})


def test_a_mean_is_of_what_has_a_value_and_says_how_many_have_none():
    none, other = Measurement(value=None, reason="silent"), Measurement(value=None, reason="empty")
    one, two = Measurement(value=1), Measurement(value=2)
    assert mean_of([one, two]) == Mean(value=1.5, n=2, deviation=0.5**0.5)
    assert mean_of([none, one, two, other]) == Mean(
        value=1.5, reason="of 4 items, 2 without a value left out", n=2, deviation=0.5**0.5
    )
    exact = Measurement(value=None, reason="equal", infinite=1)
    assert mean_of([exact, one, none]) == Mean(
        value=1, reason="of 3 items, 1 infinite and 1 without a value left out", n=1
    )
    assert mean_of([none, other]) == Mean(value=None, reason="silent", n=0)
    assert mean_of([]) == Mean(value=None, reason="there was nothing to measure", n=0)


def test_a_mean_of_five_items_has_an_interval_which_chance_does_not_move():
    values = [21.0, 24.0, 25.0, 26.0, 31.0]
    mean = mean_of([Measurement(value=v) for v in values])
    draws = np.random.default_rng(1).choice(values, (200_000, 5)).mean(1)  # by another stream
    assert (mean.low, mean.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.25)
    assert mean == mean_of([Measurement(value=v) for v in values])
    same = mean_of([Measurement(value=2.0)] * 5)
    assert (same.low, same.high) == (2, 2)
    four = mean_of([Measurement(value=v) for v in values[:4]])
    assert four.low is four.high is None


@pytest.mark.parametrize(
    ("name", "before", "now", "passed"),
    [
        ("audio_snr_db", 5, 4, True),
        ("audio_snr_db", 5, 3.99, False),
        ("audio_log_mel_l1", 2, 2.1, True),
        ("audio_log_mel_l1", 2, 2.11, False),
        ("image_psnr", -3, -3.5, True),
        ("image_ssim", 0.7, 0.679, False),
    ],
)
def test_tolerances(name, before, now, passed):
    (gate,) = gates({name: of(a=now)}, {name: of(a=before)})
    assert gate.passed is passed


def test_a_gate_says_all_of_itself():
    now = {"image_psnr": of(a=30.0), "audio_log_mel_l1": of(b=2.5)}
    before = {"image_psnr": of(a=31.0), "audio_log_mel_l1": of(b=2.0), "image_ssim": of(a=None)}
    image, audio = gates(now, before, {"image_psnr": 0.25})
    assert (image.item, image.passed, image.found, image.expected) == ("image_psnr", False, 30, 30.75)
    assert image.detail == "image_psnr fell by 1, from 31 to 30; at least 30.75 passes"
    assert (audio.item, audio.passed, audio.found, audio.expected) == ("audio_log_mel_l1", False, 2.5, 2.1)
    assert audio.detail == "audio_log_mel_l1 rose by 0.5, from 2 to 2.5; at most 2.1 passes"
    (gate,) = gates(now, {"image_psnr": of(a=30.4)})
    assert gate.passed and not gate.detail


def test_what_gates_and_what_does_not():
    assert tolerances_with({"audio_mae": 0.1}) == {
        "image_psnr": 0.5,
        "image_ssim": 0.02,
        "audio_snr_db": 1.0,
        "audio_log_mel_l1": 0.05,
        "audio_mae": 0.1,
    }
    with pytest.raises(ValueError, match=r"no metric is named 'image_psn'; did you mean 'image_psnr'\?"):
        tolerances_with({"image_psn": 1})
    with pytest.raises(ValueError, match=r"no metric is named 'zzz'; there are image_psnr, image_ssim"):
        tolerances_with({"zzz": 1})
    assert [m.name for m in metrics_of("image")] == ["image_psnr", "image_ssim", "image_ssim_gaussian"]
    assert [m.name for m in metrics_of("image", "round trip")] == ["image_roundtrip_psnr"]


@pytest.fixture
def loudness():
    "A metric that is better when lower, registered for one test."
    metric = Metric(
        name="audio_peak",
        modality="audio",
        title="peak",
        better="lower",
        tolerance=0.1,
        function=lambda a, b, rate: float(b.abs().max()),
    )
    register_metric(metric)
    yield metric
    del METRICS[metric.name]


def test_a_metric_needs_one_place(loudness):
    "Measured, gated the right way and known to a config, because it is in the list."
    found = measure("audio", torch.zeros(1, 8), torch.full((1, 8), 0.5), 24_000)
    assert found["audio_peak"].value == 0.5
    found = {"a": found["audio_peak"]}
    good, bad = (gates({"audio_peak": found}, {"audio_peak": of(a=before)})[0] for before in (0.45, 0.3))
    assert good.passed and bad.failed_gate and bad.modality == "audio"
    assert bad.detail == "audio_peak rose by 0.2, from 0.3 to 0.5; at most 0.4 passes"
    assert (
        parse_config({"text": "embedded-text", "tolerances": {"audio_peak": 0.3}}).tolerances["audio_peak"]
        == 0.3
    )
    with pytest.raises(ValueError, match=r"audio_peak.*already"):
        register_metric(loudness)


def test_a_tolerance_makes_any_metric_gate():
    "Of a fraction where the metric says so; of what is no metric, or no distance, nothing."
    (gate,) = gates({"audio_mae": of(a=0.12)}, {"audio_mae": of(a=0.1)}, {"audio_mae": 0.1})
    assert not gate.passed and gate.expected == pytest.approx(0.11)
    for wrong in ({"audio_peak": 1}, {"image_psnr": -1}, {"image_psnr": math.inf}, {"image_psnr": math.nan}):
        with pytest.raises(ConfigError, match=r"audio_peak|image_psnr"):
            parse_config({"text": "embedded-text", "tolerances": wrong})


def test_two_signals_of_one_batch_are_not_the_same_and_a_view_is_compared_as_it_reads():
    batch = torch.rand(2, 3, 32, 32)
    assert math.isfinite(psnr(batch[0], batch[1]))
    with pytest.raises(MetricError, match="same buffer"):
        psnr(batch[0], batch[0])
    backwards = batch[0].numpy()[:, :, ::-1]
    assert psnr(batch[0], backwards) == psnr(batch[0], torch.from_numpy(backwards.copy()))
