"""Held-out sounds: voices, sentences, instruments and noises that no training of ours has heard. 24 kHz mono,
about four seconds each.

The speech in `data/` was made once with espeak-ng (voices en-gb-x-rp, en-gb-x-gbcwmd, pt, en-gb-x-rp+m8);
everything else is made here, the same every time.
"""

from pathlib import Path

import numpy as np
import soundfile as sf

RATE = 24_000  # Hz
T = np.arange(4 * RATE) / RATE  # seconds


def organ(f0: float, t: np.ndarray) -> np.ndarray:
    "Drawbars of an organ through a slow rotor."
    drawbars = {0.5: 0.6, 1: 1, 1.5: 0.5, 2: 0.7, 3: 0.4, 4: 0.3, 6: 0.15, 8: 0.1}
    tone = sum(
        a * np.sin(2 * np.pi * f0 * h * t + 0.1 * h * np.sin(2 * np.pi * 6.3 * t))
        for h, a in drawbars.items()
    )
    return tone * np.minimum(1, np.minimum(t / 0.02, (t[-1] - t) / 0.05))


def bell(f0: float, t: np.ndarray) -> np.ndarray:
    "The inharmonic partials of a church bell."
    partials = {0.5: 1.2, 1: 1, 1.19: 0.8, 1.5: 0.6, 2: 0.7, 2.51: 0.3, 2.66: 0.3, 3.01: 0.2, 4.17: 0.15}
    return sum(a * np.exp(-t * (0.8 + h)) * np.sin(2 * np.pi * f0 * h * t) for h, a in partials.items())


def sawtooth_pad(f0: float, t: np.ndarray) -> np.ndarray:
    "Three detuned sawtooths, their harmonics opened and closed by a sweep."
    cutoff = 6 + 5 * np.sin(2 * np.pi * 0.7 * t)
    tone = sum(
        np.sin(2 * np.pi * f0 * d * h * t) / h / (1 + (h / cutoff) ** 4)
        for d in (0.995, 1, 1.006)
        for h in range(1, 20)
        if f0 * h < 11_000
    )
    return tone * np.minimum(1, np.minimum(t / 0.1, (t[-1] - t) / 0.2))


def tune(instrument, pitches: list[int], seconds: float) -> np.ndarray:
    "MIDI pitches one after another, each `seconds` long."
    wave, n = np.zeros(len(T)), int(seconds * RATE)
    for i, pitch in enumerate(pitches):
        t = np.arange(min(n, len(wave) - i * n)) / RATE
        if len(t) > 1:
            wave[i * n : i * n + len(t)] += instrument(440 * 2 ** ((pitch - 69) / 12), t)
    return wave


def filtered_noise(seed: int, low: float, high: float, gate: float = 0) -> np.ndarray:
    "Gaussian noise between two frequencies in Hz, with soft edges; `gate` in Hz switches it on and off."
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=len(T)))
    f = np.fft.rfftfreq(len(T), 1 / RATE)
    noise = np.fft.irfft(spectrum / (1 + (low / np.maximum(f, 1)) ** 6) / (1 + (f / high) ** 6), n=len(T))
    return noise * (1 / (1 + np.exp(-20 * np.sin(2 * np.pi * gate * T))) if gate else 1)


def sounds() -> dict[str, dict[str, np.ndarray]]:
    "Kind → name → float32 [samples] in [-1, 1]."
    speech = {p.stem: sf.read(p)[0] for p in sorted((Path(__file__).parent / "data").glob("*.flac"))}
    music = {
        "organ": tune(organ, [48, 55, 60, 64, 62, 59, 55, 60], 0.5),
        "bells": tune(bell, [72, 76, 79, 84], 1.0),
        "pad": tune(sawtooth_pad, [45, 52, 57, 50], 1.0),
        "organ and bells": tune(organ, [48, 53, 55, 48], 1.0)
        + 2 * tune(bell, [79, 76, 84, 72, 81, 77, 76, 72], 0.5),
    }
    noise = {
        "low rumble": filtered_noise(1, 40, 300),
        "broad": filtered_noise(2, 100, 9000),
        "hiss": filtered_noise(3, 3000, 11_000),
        "gated": filtered_noise(4, 200, 5000, gate=3),
    }
    mixed = {
        f"{s} over {m}": speech[s] + 0.2 * music[m][: len(speech[s])] / np.abs(music[m]).max()
        for s, m in zip(speech, music, strict=True)
    }
    kinds = {"speech": speech, "music": music, "noise": noise, "speech over music": mixed}
    return {
        kind: {name: (0.6 * w / np.abs(w).max()).astype(np.float32) for name, w in waves.items()}
        for kind, waves in kinds.items()
    }
