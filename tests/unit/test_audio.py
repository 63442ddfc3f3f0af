"""WAV files written byte by byte; the cochleagram against filters in time; level crossings inverted."""

import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeproof.datasets import SpokenDigits
from spikeproof.datasets.audio import centre_frequencies, cochleagram, level_crossings, read_wav
from spikeproof.errors import InputError

RATE = 8000


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIKEPROOF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(SpokenDigits, "published", {})  # a few examples are all there is


def wav(samples, channels=1, rate=RATE, bits=16, claimed=None, form=1):
    """By the letter of the format: RIFF, a form chunk, a data chunk."""
    data = struct.pack(f"<{len(samples)}h", *samples)
    size = len(data) if claimed is None else claimed
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", form, channels, rate, rate * block, block, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_samples_are_signed_and_little_endian(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav([0, 16384, -32768, 1]))
    sound, rate = read_wav(tmp_path / "a.wav")
    assert rate == RATE
    assert sound.tolist() == [0, 0.5, -1, 1 / 32768]


GOOD = wav([1, 2, 3, 4])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD[:10],
        GOOD[:30],
        GOOD[:-2],
        wav([]),
        wav([1, 2], channels=2),
        wav([1, 2], bits=8),
        wav([1, 2], rate=0),
        wav([1, 2], form=3),
        wav([1, 2], claimed=0xFFFFFFFE),
        wav([1, 2], channels=0),
        b"RIFX" + GOOD[4:],
        bytes(100),
    ],
    ids=range(13),
)
def test_bad_wav_files_are_refused_and_take_no_memory(tmp_path, content):
    (tmp_path / "bad.wav").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bad\.wav"):
        read_wav(tmp_path / "bad.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def direct(sound, rate, bands):
    """The same filters in the time domain: their impulse responses, convolved one sample after the other."""
    t = np.arange(rate // 20) / rate
    rows = []
    for f in centre_frequencies(bands, rate):
        b = 2 * np.pi * 1.019 * 24.7 * (1 + 4.37 * f / 1000)
        response = b**4 * t**3 / 6 * np.exp(-b * t + 2j * np.pi * f * t) / rate * 2
        rows.append(np.abs(np.convolve(sound, response)[: len(sound)]))
    return np.array(rows)


def test_the_cochleagram_is_that_of_filters_in_time():
    sound = np.sin(2 * np.pi * 700 * np.arange(1600) / RATE) * np.hanning(1600)
    slow = direct(sound, RATE, 8).reshape(8, -1, 40).mean(2)
    slow = np.maximum(1 + 20 * np.log10(np.maximum(slow / slow.max(), 1e-9)) / 60, 0)
    fast = cochleagram(sound, RATE, 8)
    assert fast.shape == (8, 40)
    assert np.abs(fast - slow)[:, 4:-4].max() < 0.03


def test_a_tone_is_loudest_in_its_band():
    centres = centre_frequencies(20, RATE)
    assert (centres[0], centres[-1]) == (pytest.approx(100), pytest.approx(3600))
    for band in (2, 9, 17):
        tone = np.sin(2 * np.pi * centres[band] * np.arange(4000) / RATE)
        level = cochleagram(tone, RATE, 20)
        assert level.mean(1).argmax() == band
        assert level.max() == 1
    assert (cochleagram(np.zeros(800), RATE, 4) >= 0).all()


def test_loudness_does_not_change_the_cochleagram():
    sound = np.random.default_rng(0).normal(size=800)
    assert np.allclose(cochleagram(sound, RATE, 6), cochleagram(sound / 100, RATE, 6), atol=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 20))
def test_crossings_give_the_signal_back_within_a_step(values, levels):
    signal = np.array([values])
    rises, falls = level_crossings(signal, levels)
    assert ((rises == 0) | (falls == 0)).all()
    back = (rises - falls).cumsum(1) / levels
    assert np.abs(back - signal).max() < 1 / levels + 1e-9


def folder(path, names):
    path.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in names:
        (path / name).write_bytes(wav(generator.integers(-999, 999, 1600).tolist()))
    return path


def test_recordings_0_to_4_are_the_test_part(tmp_path):
    names = [f"{d}_{who}_{i}.wav" for d in (3, 8) for who in ("ann", "bob") for i in (0, 4, 5, 12, 49)]
    folder(tmp_path / "recordings", [*names, "notes.wav"])
    data = SpokenDigits(steps=10, bands=4, hold_out=0.5).load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 6, 8)
    assert data.test.labels.tolist() == [3, 3, 3, 3, 8, 8, 8, 8]
    assert data.test.images.shape == (8, 10, 2, 4, 1)
    sound = read_wav(tmp_path / "recordings" / "3_ann_0.wav")[0]
    rises, falls = level_crossings(cochleagram(sound, RATE, 4), 8)
    assert data.test.images[0, :, 0, :, 0].sum() == rises.sum()
    assert data.test.images[0, :, 1, :, 0].sum() == falls.sum()
    assert data.test.images[0, 3:].sum() == 0  # 0.2 of 0.8 seconds


def test_what_follows_the_duration_is_left_out(tmp_path):
    folder(tmp_path / "recordings", ["1_a_0.wav", "1_a_7.wav", "2_a_8.wav"])
    half = SpokenDigits(steps=10, bands=4, duration=0.1).load(tmp_path)
    own = SpokenDigits(steps=10, bands=4, duration=None).load(tmp_path)
    assert 0 < half.test.images.sum() < own.test.images.sum()
    assert own.test.images[0, -1].sum() > 0
    assert SpokenDigits(steps=10, bands=4, binary=True).load(tmp_path).test.images.max() == 1
    assert torch.equal(half.test.ids, torch.tensor([0]))


@pytest.mark.parametrize("options", [{"bands": 1}, {"levels": 0}, {"steps": 0}])
def test_fewer_than_two_bands_and_no_levels_or_steps_are_refused(options):
    with pytest.raises(InputError):
        SpokenDigits(**options)


def test_recordings_that_are_not_found_name_where_to_get_them(tmp_path):
    with pytest.raises(InputError, match="free-spoken-digit-dataset"):
        SpokenDigits().load(tmp_path)
