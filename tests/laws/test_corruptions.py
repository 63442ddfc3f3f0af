"""What every corruption must satisfy; a new corruption adds a row to CORRUPTIONS."""

import itertools
import math

import pytest
import torch

from spikeproof.catalogue.names import PARTS
from spikeproof.corruptions import (
    JPEG,
    SEVERITIES,
    AreaDrops,
    BackgroundActivity,
    Brightness,
    ClockDrift,
    Contrast,
    Corruption,
    DeadPixels,
    DefocusBlur,
    Elastic,
    EventDrops,
    Fog,
    GaussianCorruption,
    HotPixels,
    ImpulseNoise,
    MotionBlur,
    Occlusion,
    Pixelation,
    PolarityDrops,
    PolarityFlips,
    Rotation,
    Scaling,
    ShotNoise,
    TimeDrops,
    TimestampJitter,
    TimeWarp,
    Translation,
    UniformCorruption,
)
from spikeproof.datasets import Digits
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.specs import build, describe

OF_IMAGES = [
    *(GaussianCorruption(), UniformCorruption(), ShotNoise(), ImpulseNoise()),
    *(DefocusBlur(), MotionBlur(), Fog(), Brightness(), Contrast(), JPEG(), Pixelation()),
    *(Elastic(), Rotation(), Translation(), Scaling(), Occlusion()),
]
OF_EVENTS = [
    *(BackgroundActivity(), HotPixels(), DeadPixels(), PolarityFlips()),
    *(EventDrops(), TimeDrops(), AreaDrops(), PolarityDrops()),
    *(TimestampJitter(), ClockDrift(), TimeWarp()),
]
CORRUPTIONS = [*OF_IMAGES, *OF_EVENTS]
SHAPES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (1, 7, 12), (3, 1, 5)]
B = 12


def scenes(shape, many=B):
    """Smooth pictures with edges, in [0, 1]."""
    channels, height, width = shape
    phase = Key.of(1).for_rows(range(many)).uniform((many, channels, 4)) * 2 * math.pi
    row = torch.linspace(0, 3, height).view(1, 1, -1, 1)
    column = torch.linspace(0, 3, width).view(1, 1, 1, -1)
    wave = (row * 2 + phase[..., 0, None, None]).sin() + (column * 3 + phase[..., 1, None, None]).cos()
    edge = (row + column * (phase[..., 2, None, None].sin()) > 2).float()
    return (0.25 + 0.12 * wave + 0.4 * edge).clamp(0, 1)


def recordings(shape=(10, 2, 9, 9), many=B, binary=False):
    """Moving spots: events of both polarities, more of them in the first half."""
    steps, polarities, height, width = shape
    key = Key.of(2).for_rows(range(many))
    chance = torch.linspace(0.5, 0.02, steps).view(1, -1, 1, 1, 1)
    spot = torch.zeros(height, width)
    spot[1 : height // 2 + 1, 1 : width // 2 + 1] = 1
    weight = torch.tensor([1.0, 0.4]).view(1, 1, 2, 1, 1)[:, :, :polarities]
    events = (key.uniform((many, *shape)) < chance * spot * weight).float()
    if not binary:
        events = events + 2 * (key.fold("more").uniform((many, *shape)) < 0.3 * chance * spot).float()
    return events


def examples(corruption):
    return recordings() if corruption.EVENTS else scenes((3, 32, 32))


KEY = Key.of(3).for_rows(range(B))


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=repr)
def test_a_corruption_is_rebuilt_from_its_description(corruption):
    assert build(Corruption, describe(corruption, PARTS), PARTS) == corruption


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: type(c).__name__)
def test_equal_keys_give_equal_examples_in_any_batch_and_order(corruption):
    x = examples(corruption)
    for severity in SEVERITIES:
        whole = corruption(x, severity, KEY)
        assert torch.equal(corruption(x, severity, KEY), whole)
        part = corruption(x[[7, 2, 5]], severity, Key.of(3).for_rows([7, 2, 5]))
        assert torch.equal(part, whole[[7, 2, 5]])
        one = corruption(x[4:5], severity, Key.of(3).for_rows([4]))
        assert torch.equal(one, whole[4:5])


DRAWS_NOTHING = (DefocusBlur, Brightness, Contrast, JPEG, Pixelation)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: type(c).__name__)
def test_another_key_gives_other_draws_and_a_key_without_rows_numbers_the_examples(corruption):
    x = examples(corruption)
    same = torch.equal(corruption(x, 5, Key.of(4)), corruption(x, 5, KEY))
    assert same == isinstance(corruption, DRAWS_NOTHING)
    assert torch.equal(corruption(x, 5, Key.of(3)), corruption(x, 5, KEY))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("corruption", OF_IMAGES, ids=lambda c: type(c).__name__)
def test_corrupted_images_are_images_of_the_same_shape_and_type(corruption, shape):
    x = scenes(shape, 4)
    extremes = torch.stack([torch.zeros(shape), torch.ones(shape)])
    for severity in (1, 5):
        for images in (x, x.double(), extremes):
            before = images.clone()
            found = corruption(images, severity, Key.of(0))
            assert found.shape == images.shape
            assert found.dtype == images.dtype
            assert found.isfinite().all()
            assert found.min() >= 0
            assert found.max() <= 1
            assert torch.equal(images, before)
    assert corruption(x[:0], 1, Key.of(0)).shape == (0, *shape)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("corruption", OF_EVENTS, ids=lambda c: type(c).__name__)
def test_corrupted_recordings_hold_whole_numbers_and_binary_ones_stay_binary(corruption, binary):
    x = recordings(binary=binary)
    for events in (x, torch.zeros_like(x), recordings((1, 2, 4, 4), binary=binary)):
        for severity in (1, 5):
            found = corruption(events, severity, Key.of(0))
            assert found.shape == events.shape
            assert found.dtype == events.dtype
            assert torch.equal(found, found.round())
            assert found.min() >= 0
            assert not binary or found.max() <= 1
    assert corruption(x[:0], 1, Key.of(0)).shape == (0, *x.shape[1:])


def distances(corruption, x):
    key = Key.of(6).for_rows(range(len(x)))
    moved = [(corruption(x, severity, key) - x).double().flatten(1) for severity in SEVERITIES]
    return [float(each.norm(dim=1).mean()) for each in moved]


def never_falls(values):
    return all(low <= high * (1 + 1e-6) for low, high in itertools.pairwise(values))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("corruption", OF_IMAGES, ids=lambda c: type(c).__name__)
def test_the_mean_distance_rises_with_the_severity(corruption, shape):
    far = distances(corruption, scenes(shape, 48))
    assert far[0] > 0
    assert never_falls(far)
    assert far[4] > 1.05 * far[0]


@pytest.mark.parametrize("corruption", OF_IMAGES, ids=lambda c: type(c).__name__)
def test_the_mean_distance_rises_with_the_severity_on_digits(corruption):
    far = distances(corruption, Digits().load(None).test.images[:48].float())
    assert far[0] > 0
    if isinstance(corruption, Pixelation):  # boxes of 8 pixels: where they lie decides between 4 and 5
        far = far[:4]
    assert never_falls(far)


@pytest.mark.parametrize("corruption", OF_EVENTS, ids=lambda c: type(c).__name__)
def test_the_mean_distance_of_recordings_rises_with_the_severity(corruption):
    x, key = recordings(many=48), Key.of(6).for_rows(range(48))
    moved = [corruption(x, severity, key) - x for severity in SEVERITIES]
    for changes in (moved, [each.cumsum(1) for each in moved]):  # how many events, and how far in time
        far = [float(each.abs().sum() / len(x)) for each in changes]
        assert far[0] > 0
        assert never_falls(far)
        assert far[4] > 1.05 * far[0]


@pytest.mark.parametrize(
    "corruption", [EventDrops(), TimeDrops(), AreaDrops(), PolarityDrops(), DeadPixels()], ids=repr
)
def test_what_one_severity_loses_every_higher_one_loses_too(corruption):
    left = [corruption(recordings(), severity, KEY) for severity in SEVERITIES]
    for mild, severe in itertools.pairwise(left):
        assert (severe <= mild).all()


@pytest.mark.parametrize("severity", [0, 6, -1, 2.0, True, "3", None])
@pytest.mark.parametrize("corruption", [GaussianCorruption(), EventDrops()], ids=repr)
def test_other_severities_are_refused(corruption, severity):
    with pytest.raises(InputError, match="whole number from 1 to 5"):
        corruption(examples(corruption), severity, KEY)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: type(c).__name__)
def test_what_it_is_not_defined_for_is_refused(corruption):
    x = examples(corruption)
    with pytest.raises(InputError, match="examples"):
        corruption(x[:, 0], 1, KEY)
    with pytest.raises(InputError, match="whole numbers" if corruption.EVENTS else r"in \[0, 1\]"):
        corruption(x + 0.5 if corruption.EVENTS else x + 1, 1, KEY)
    with pytest.raises(InputError):
        corruption(x * math.nan, 1, KEY)
    with pytest.raises(InputError, match="key"):
        corruption(x, 1, 0)
    with pytest.raises(InputError, match="tensor"):
        corruption(x.numpy(), 1, KEY)
    with pytest.raises(InputError, match="one identity per example"):
        corruption(x, 1, Key.of(0).for_rows(range(B - 1)))


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: type(c).__name__)
def test_levels_in_the_wrong_order_or_range_are_refused(corruption):
    levels = corruption.levels
    for wrong in (levels[::-1], (-1.0, *levels[1:]), (*levels[:4], math.nan), (*levels[:4], math.inf)):
        with pytest.raises(InputError, match="five levels"):
            type(corruption)(levels=wrong)


@pytest.mark.parametrize("corruption", [PolarityFlips(), PolarityDrops()], ids=repr)
def test_polarities_are_needed_where_they_change(corruption):
    with pytest.raises(InputError, match="polarities"):
        corruption(recordings((4, 1, 5, 5)), 1, KEY)


def test_other_numbers_of_channels_and_areas_are_refused():
    with pytest.raises(InputError, match="1 or 3 channels"):
        JPEG()(torch.zeros(1, 2, 8, 8), 1, Key.of(0))
    with pytest.raises(InputError, match="pixels"):
        AreaDrops()(torch.zeros(1, 8, 5), 1, Key.of(0))
    with pytest.raises(InputError, match="recordings of events"):
        EventDrops()(torch.zeros(1, 3, 8, 8), 1, Key.of(0))


@pytest.mark.parametrize(
    "corruption",
    [c for c in OF_EVENTS if not isinstance(c, AreaDrops | PolarityDrops | PolarityFlips)],
    ids=repr,
)
def test_recordings_without_pixels_are_corrupted_too(corruption):
    x = recordings().flatten(2)
    assert corruption(x, 3, KEY).shape == x.shape
    assert not torch.equal(corruption(x, 5, KEY), x)


def test_what_flips_jitter_and_warp_keep():
    x = recordings()
    flipped = PolarityFlips()(x, 5, KEY)
    assert torch.equal(flipped.sum(2), x.sum(2))
    for corruption in (TimestampJitter(), TimeWarp()):
        assert torch.equal(corruption(x, 5, KEY).sum(1), x.sum(1))
    for corruption in (EventDrops(), TimeDrops(), AreaDrops(), PolarityDrops(), DeadPixels()):
        assert (corruption(x, 5, KEY) <= x).all()
    for corruption in (BackgroundActivity(), HotPixels()):
        assert (corruption(x, 5, KEY) >= x).all()
