"""Corruptions beside independent oracles: SciPy, Pillow, the standard library and closed forms."""

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from spikeproof.corruptions import (
    JPEG,
    Brightness,
    DefocusBlur,
    Elastic,
    EventDrops,
    GaussianCorruption,
    ImpulseNoise,
    Pixelation,
    PolarityFlips,
    Rotation,
    Scaling,
    ShotNoise,
    TimestampJitter,
    TimeWarp,
    Translation,
    UniformCorruption,
)
from spikeproof.keys import Key

KEY = Key.of(5).for_rows([11])
PICTURE = torch.rand(1, 3, 17, 17, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PLANE = PICTURE[0, 0].numpy()


def changed(corruption, severity, x=PICTURE):
    return corruption(x, severity, KEY)[0]


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_has_the_variance_of_its_closed_form(severity):
    flat = torch.full((1, 1, 200, 200), 0.5, dtype=torch.float64)
    sigma = GaussianCorruption().levels[severity - 1]
    for corruption in (GaussianCorruption(), UniformCorruption()):
        assert float(changed(corruption, severity, flat).std()) == pytest.approx(sigma, rel=0.03)
    photons = ShotNoise().levels[severity - 1]
    assert float(changed(ShotNoise(), severity, flat).var()) == pytest.approx(0.5 / photons, rel=0.05)
    share = ImpulseNoise().levels[severity - 1]
    hit = changed(ImpulseNoise(), severity, flat)
    for value in (0, 1):
        assert float((hit == value).double().mean()) == pytest.approx(share / 2, rel=0.15)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_defocus_is_a_convolution_with_a_smoothed_disk(severity):
    corruption = DefocusBlur()
    radius, edge = corruption.levels[severity - 1], corruption.edges[severity - 1]
    y, x = np.mgrid[-8:9, -8:9]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    weights = np.exp(-(np.arange(-1, 2) ** 2) / (2 * edge**2))
    smooth = np.outer(weights, weights) / weights.sum() ** 2
    kernel = ndimage.convolve(disk / disk.sum(), smooth, mode="constant")
    wanted = ndimage.convolve(PLANE, kernel, mode="mirror")
    np.testing.assert_allclose(changed(corruption, severity)[0].numpy(), wanted, atol=1e-12)


def test_brightness_is_that_of_hsv():
    found = changed(Brightness(), 4)
    for pixel, seen in zip(PICTURE[0].flatten(1).T.tolist(), found.flatten(1).T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        assert seen == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1)))


@pytest.mark.parametrize("side", [8, 18, 28, 32])
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_pixelation_is_that_of_boxes_in_pillow(severity, side):
    levels = torch.randint(0, 256, (side, side), generator=torch.Generator().manual_seed(2))
    small = int(side * Pixelation().levels[severity - 1])
    image = Image.fromarray(levels.to(torch.uint8).numpy())
    wanted = image.resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)
    found = changed(Pixelation(), severity, levels.double()[None, None] / 255)[0] * 255
    assert np.abs(found.numpy() - np.asarray(wanted).astype(float)).max() < 1.01


def test_a_jpeg_is_the_file_that_pillow_writes():
    levels = torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(3))
    file = io.BytesIO()
    Image.fromarray(levels.to(torch.uint8).permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40)
    wanted = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    found = changed(JPEG(), 5, levels.double()[None] / 255)
    assert torch.equal((found * 255).round().to(torch.uint8), wanted)


def sign():
    return -1.0 if float(KEY.uniform((1,))) < 0.5 else 1.0


def moved(matrix, offset=(0.0, 0.0)):
    centre = (np.array(PLANE.shape) - 1) / 2
    start = centre - matrix @ centre + np.array(offset)
    return ndimage.affine_transform(PLANE, matrix, start, order=1, mode="nearest")


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_geometry_is_that_of_scipy(severity):
    angle = np.deg2rad(Rotation().levels[severity - 1]) * sign()
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(changed(Rotation(), severity)[0], moved(turn), atol=1e-9)

    factor = Scaling().levels[severity - 1] ** sign()
    np.testing.assert_allclose(changed(Scaling(), severity)[0], moved(np.eye(2) * factor), atol=1e-9)

    far, turned = Translation().levels[severity - 1] * 17, 2 * np.pi * float(KEY.uniform((1,)).double())
    offset = (-far * np.sin(turned), -far * np.cos(turned))
    np.testing.assert_allclose(changed(Translation(), severity)[0], moved(np.eye(2), offset), atol=1e-9)


@pytest.mark.parametrize("severity", [1, 5])
def test_an_elastic_field_moves_pixels_as_far_as_its_level_says(severity):
    corruption = Elastic()
    draws = (2 * KEY.uniform((1, 2, 17, 17)).double() - 1)[0].numpy()
    width = 0.1 * 17
    field = ndimage.gaussian_filter(draws, (0, width, width), mode="mirror", radius=(0, 6, 6))
    field *= corruption.levels[severity - 1] * 17 / np.sqrt((field**2).sum(0).mean())
    places = np.mgrid[0:17, 0:17] + field
    wanted = ndimage.map_coordinates(PLANE, places, order=1, mode="nearest")
    np.testing.assert_allclose(changed(corruption, severity)[0], wanted, atol=1e-9)


def test_events_are_thinned_flipped_and_moved_by_the_probabilities_of_their_closed_forms():
    events = torch.zeros(1, 21, 2, 40, 40)
    events[:, 10, 0] = 5  # 8000 events of one polarity at one time
    left = EventDrops()(events, 3, KEY)
    assert float(left.sum()) == pytest.approx(0.6 * 8000, rel=0.05)
    flipped = PolarityFlips()(events, 2, KEY)
    assert float(flipped[:, :, 1].sum()) == pytest.approx(0.1 * 8000, rel=0.1)
    times = TimestampJitter()(events, 2, KEY).sum((0, 2, 3, 4)).double() / 8000
    steps = torch.arange(21).double()
    assert float((times * steps).sum()) == pytest.approx(10, abs=0.1)
    spread = float((times * (steps - 10) ** 2).sum())
    assert spread == pytest.approx(
        (0.05 * 21) ** 2 + 1 / 6, rel=0.1
    )  # times within steps and rounding add theirs


def test_a_warp_keeps_the_order_of_events_and_the_ends():
    events = torch.zeros(1, 200, 200)
    events[0, torch.arange(200), torch.arange(200)] = 2
    there = TimeWarp()(events, 5, KEY)[0].argmax(0)
    assert (there.diff() >= 0).all()
    assert abs(int(there[0])) <= 1
    assert abs(int(there[-1]) - 199) <= 1
    assert abs(int(there[100]) - 100) <= 1
    t = (np.arange(200) + 0.5) / 200
    bent = np.abs(t - 0.95 * np.sin(2 * np.pi * t) / (2 * np.pi) - t).max() * 200
    assert abs(float((there - torch.arange(200)).abs().max()) - bent) <= 1
