"""Spoken digits: the cochleagram of a sound, and spikes where its bands cross levels."""

from __future__ import annotations

import functools
import io
import re
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Complex, Float, Int

from spikeproof.datasets.intake.files import listed
from spikeproof.datasets.recordings import Events, Recording, Recordings, bad, read_whole
from spikeproof.errors import InputError

__all__ = ["SpokenDigits", "cochleagram", "level_crossings"]

LONGEST = 1 << 20  # samples of one recording
PATIENCE = 30  # seconds of a recording that are filtered if no duration is given
FILE = re.compile(r"(\d)_([A-Za-z]\w*)_(\d{1,4})\.wav")
FINE = 200  # frames of the cochleagram per second
TOGETHER = 1 << 21  # values of filtered sound at a time, which bounds the memory
QUIET = 1e-3  # amplitude, relative to the loudest, that counts as silence: 60 dB


@dataclass(frozen=True)
class SpokenDigits(Recordings):
    r"""3,000 spoken digits of six speakers, as spikes where the bands of a cochleagram cross levels.

    The level `u` of band `b` is the amplitude `e` of the output of a gammatone filter in decibels, scaled so
    that 0 is silence, 60 dB below the loudest moment of the recording, and 1 is that moment: `u = max(0, 1 +
    20 log10(e / max e) / 60)`. Whenever `u` has moved by `1 / levels` since the last spike of its band, the
    band fires, in channel 0 if `u` rose and in channel 1 if it fell. Each recording begins at time 0, and
    sound after `duration` is left out.

    Recordings 0 to 4 of each speaker and digit are the test part. A fixed share of the others is the
    validation part.

    Args:
        steps: number of frames `T`, 1 to 10,000.
        by: whether a frame takes equal time, `"time"`, or equally many events, `"count"`.
        binary: whether several spikes of one band in a frame count as one.
        duration: seconds of each recording that are used, or None for its whole length.
        hold_out: share of the training recordings set aside for validation, 0 to 0.5.
        bands: gammatone filters, evenly spaced on the scale of equivalent rectangular bandwidths from 100 Hz
            to nine tenths of half the sampling rate, 2 to 512.
        levels: number of levels between silence and the loudest moment, 1 to 100.
        subset: numbers of recordings in the files if they are incomplete, such as `{train: 900, test: 100}`.
        blank: whether recordings without spikes are left out, `"leave-out"`, or kept, `"keep"`; a note gives
            their number. None refuses them.

    Shapes:
        examples `[N, T, 2, bands, 1]`, for the encoder `events` with as many steps.

    Raises:
        InputError: an argument is out of range.

    Source:
        Jackson et al. 2018, Free Spoken Digit Dataset, doi 10.5281/zenodo.1342401, CC BY-SA 4.0; Patterson et
        al. 1992 and Glasberg & Moore 1990 for the filters; level crossing as in Anumula et al. 2018.
    """

    steps: int = 80
    duration: float | None = 0.8
    bands: int = 64
    levels: int = 8
    published: ClassVar[Mapping[str, int]] = {"train": 2_700, "test": 300}
    folder: ClassVar[str] = "spoken-digits"
    layouts: ClassVar[tuple[str, ...]] = (
        "recordings",
        "fsdd/recordings",
        "free-spoken-digit-dataset/recordings",
    )
    names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    advice: ClassVar[str] = (
        "Get the Free Spoken Digit Dataset from https://github.com/Jakobovski/free-spoken-digit-dataset "
        "and unpack it."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("bands", 2, 512), ("levels", 1, 100)):
            if not low <= getattr(self, name) <= high:
                raise InputError(
                    f"SpokenDigits needs {name} from {low} to {high}",
                    f"{name}={getattr(self, name)}",
                    "Try the default.",
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        return 2, self.bands, 1

    def recordings(self, folder: Path) -> list[Recording]:
        found = [(FILE.fullmatch(path.name), path) for path in listed(folder, ".wav")]
        return [
            Recording(path, "test" if int(match[3]) < 5 else "train", int(match[1]))
            for match, path in found
            if match
        ]

    def examples(self, recording: Recording) -> Iterator[tuple[Events, int]]:
        sound, rate = read_wav(recording.path)
        if self.duration is not None:  # sound after it cannot reach the filters either
            sound = sound[: round(self.duration * rate)]
        elif len(sound) > PATIENCE * rate:
            raise InputError(
                f"A spoken digit lasts at most {PATIENCE} s",
                f"{len(sound) / rate:.1f} s in {recording.path}",
                "Give a duration in seconds, of any length; sound after it is left out.",
            )
        rises, falls = level_crossings(cochleagram(sound, rate, self.bands), self.levels)
        numbers = np.stack([rises, falls])  # [2, bands, frames]
        channel, band, frame = np.nonzero(numbers)
        repeat = numbers[channel, band, frame]
        time, channel, band = (np.repeat(a, repeat) for a in (frame * (1_000_000 // FINE), channel, band))
        yield Events.sorted(time, channel, band, 0), recording.label


def read_wav(path: Path) -> tuple[Float[np.ndarray, "N"], int]:
    """The samples, in [-1, 1), and the sampling rate in hertz of a WAV file of one channel and 16 bits.

    Raises:
        InputError: the file has another format.
    """
    try:
        with wave.open(io.BytesIO(read_whole(path))) as file:
            form = file.getnchannels(), file.getsampwidth(), file.getframerate()
            if form[:2] != (1, 2) or not 1000 <= form[2] <= 200_000:
                raise bad(
                    path, f"{form[0]} channels of {8 * form[1]} bits at {form[2]} Hz instead of one of 16"
                )
            content = file.readframes(LONGEST + 1)
            claimed = file.getnframes()
    except (wave.Error, EOFError, ValueError, RuntimeError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise bad(path, f"no WAV file ({error or type(error).__name__})") from error
    if len(content) != 2 * claimed or not 1 <= claimed <= LONGEST:
        raise bad(
            path, f"{len(content) // 2} samples where the header says {claimed}; 1 to {LONGEST} are read"
        )
    return np.frombuffer(content, "<i2") / 32768, form[2]


def cochleagram(sound: Float[np.ndarray, "N"], rate: int, bands: int) -> Float[np.ndarray, "{bands} frames"]:
    r"""The loudness of each band over time, from 0 to 1.

    .. math:: H_b(f) = \left(1 + i\, \frac{f - f_b}{1.019\, \mathrm{ERB}(f_b)}\right)^{-4}, \quad
        \mathrm{ERB}(f) = 24.7 (1 + 4.37 f / 1000)

    The filters pass positive frequencies only, so that the magnitude of their output is its envelope, which
    is averaged over frames of 5 ms.

    Args:
        sound: samples, of any scale.
        rate: sampling rate in hertz, at least 1000.
        bands: number of filters.
    """
    count = max(1, len(sound) * FINE // rate)
    size = 1 << (len(sound) + rate // 20 - 1).bit_length()  # with 50 ms for the filters to decay
    spectrum = np.fft.fft(sound, size)
    edges = np.arange(count + 1) * len(sound) // count
    each = max(1, TOGETHER // size)
    means = []
    for first in range(0, bands, each):
        filters = _gammatone(size, rate, bands, first, min(first + each, bands))
        envelope = np.abs(np.fft.ifft(spectrum * filters, axis=1)[:, : len(sound)])
        total = np.concatenate([np.zeros((len(filters), 1)), envelope.cumsum(1)], 1)
        means.append(np.diff(total[:, edges], axis=1) / np.diff(edges))
    mean = np.concatenate(means)
    loudest = mean.max()
    level: np.ndarray = 1 - np.log10(np.maximum(mean / (loudest or 1), QUIET)) / np.log10(QUIET)
    return level


@functools.lru_cache(4)
def _gammatone(
    size: int, rate: int, bands: int, first: int, last: int
) -> Complex[np.ndarray, "{last}-{first} {size}"]:
    """The responses of filters `first` to `last - 1` at positive frequencies; 1 at the centre frequency."""
    frequency = np.fft.fftfreq(size, 1 / rate)
    centres = centre_frequencies(bands, rate)[first:last, None]
    pole = 1 / (1 + 1j * (frequency - centres) / (1.019 * 24.7 * (1 + 4.37 * centres / 1000)))
    response: np.ndarray = np.where(frequency > 0, 2 * (pole * pole) ** 2, 0)
    return response


def centre_frequencies(bands: int, rate: int) -> Float[np.ndarray, "{bands}"]:
    """Frequencies evenly spaced on the ERB-rate scale of Glasberg & Moore, 100 Hz to 0.9 of the highest."""
    low, high = (21.4 * np.log10(1 + 4.37 * f / 1000) for f in (100, 0.45 * rate))
    scale: np.ndarray = (10 ** (np.linspace(low, high, bands) / 21.4) - 1) * 1000 / 4.37
    return scale


def level_crossings(
    signal: Float[np.ndarray, "B N"], levels: int
) -> tuple[Int[np.ndarray, "B N"], Int[np.ndarray, "B N"]]:
    """The numbers of levels by which each signal rose and fell at each moment.

    A reference starts at 0 and follows the signal in steps of `1 / levels`: `reference = (rises -
    falls).cumsum() / levels`. It always differs from the signal by less than one step.

    Args:
        signal: values over time.
        levels: number of steps between 0 and 1.

    Example:
        >>> rises, falls = level_crossings(np.array([[0.0, 0.3, 0.6, 0.55, 0.0]]), 4)
        >>> rises.tolist(), falls.tolist()
        ([[0, 1, 1, 0, 0]], [[0, 0, 0, 0, 2]])
    """
    scaled = np.round(signal * levels, 9)
    reference = np.zeros(len(signal))
    moves = np.zeros(signal.shape, np.int64)
    for i in range(signal.shape[1]):
        move = np.trunc(scaled[:, i] - reference)
        reference += move
        moves[:, i] = move
    return np.maximum(moves, 0), np.maximum(-moves, 0)
