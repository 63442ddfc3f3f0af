"""Our corruptions beside the published ones of ImageNet-C, at its levels, to one level of 255.

imagecorruptions draws from NumPy's global generator; where a draw decides the result, it is given ours.
"""

import numpy as np
import pytest
import torch

from spikeproof.corruptions import (
    JPEG,
    Brightness,
    Contrast,
    DefocusBlur,
    Fog,
    GaussianCorruption,
    ImpulseNoise,
    MotionBlur,
    Pixelation,
    ShotNoise,
)
from spikeproof.keys import Key

pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("cv2", reason="imagecorruptions is not installed")
published = pytest.importorskip("imagecorruptions", reason="imagecorruptions is not installed")

KEY = Key.of(0).for_rows([0])
SIDE = 64
DETERMINISTIC = {
    "defocus_blur": DefocusBlur(levels=(3, 4, 6, 8, 10), edges=(0.1, 0.5, 0.5, 0.5, 0.5)),
    "brightness": Brightness(levels=(0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Contrast(levels=(0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": Pixelation(levels=(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": JPEG(levels=(25, 18, 15, 10, 7)),
}


@pytest.fixture(scope="module")
def picture():
    row, column = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    waves = [np.sin(9 * row + 4 * c) + np.cos(13 * column * (c + 1)) for c in range(3)]
    image = np.stack(waves, -1) * 50 + 120
    image[20:40, 10:30] = (250, 30, 90)
    return image.clip(0, 255).astype(np.uint8)


def ours(corruption, picture, severity):
    x = torch.from_numpy(picture).double().permute(2, 0, 1)[None] / 255
    return corruption(x, severity, KEY)[0].permute(1, 2, 0).numpy() * 255


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_what_draws_nothing_agrees(name, severity, picture):
    theirs = published.corrupt(picture, severity, name).astype(float)
    mirrored = name == "defocus_blur" and severity > 3  # a disk of 8 or more has no room to be smoothed there
    far = np.abs(ours(DETERMINISTIC[name], picture, severity) - theirs).max()
    assert far < (3.5 if mirrored else 1.01)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_motion_blur_agrees_at_the_same_angle(severity, picture, monkeypatch):
    angle = 90 * float(KEY.uniform((1,)).double()) - 45
    monkeypatch.setattr(np.random, "uniform", lambda low, high: angle)
    corruption = MotionBlur(levels=(3, 5, 8, 12, 15), radii=(10, 15, 15, 15, 20))
    theirs = published.corrupt(picture, severity, "motion_blur").astype(float)
    assert np.abs(ours(corruption, picture, severity) - theirs).max() < 1.01


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_fog_agrees_with_the_same_draws(severity, picture, monkeypatch):
    steps = [64, 32, 16, 8, 4, 2]
    draws = iter([(name, step) for step in steps for name in ("centre", "row", "column")])

    def uniform(low, high, shape):
        drawn = KEY.fold(*next(draws)).uniform((1, *shape)).double()[0].numpy()
        return low + (high - low) * drawn

    monkeypatch.setattr(np.random, "uniform", uniform)
    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    corruption = Fog(levels=(1.5, 2, 2.5, 2.5, 3), decays=(2, 2, 1.7, 1.5, 1.4))
    theirs = published.corrupt(picture, severity, "fog").astype(float)
    assert np.abs(ours(corruption, picture, severity) - theirs).max() < 1.01


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_gaussian_noise_agrees_with_the_same_draws(severity, picture, monkeypatch):
    drawn = KEY.normal((1, 3, SIDE, SIDE)).double()[0].permute(1, 2, 0).numpy()
    monkeypatch.setattr(np.random, "normal", lambda size, scale: scale * drawn)
    corruption = GaussianCorruption(levels=(0.08, 0.12, 0.18, 0.26, 0.38))
    theirs = published.corrupt(picture, severity, "gaussian_noise").astype(float)
    assert np.abs(ours(corruption, picture, severity) - theirs).max() < 1.01


@pytest.mark.parametrize(
    ("name", "corruption"),
    [
        ("shot_noise", ShotNoise(levels=(60, 25, 12, 5, 3))),
        ("impulse_noise", ImpulseNoise(levels=(0.03, 0.06, 0.09, 0.17, 0.27))),
    ],
)
@pytest.mark.parametrize("severity", [1, 5])
def test_shot_and_impulse_noise_agree_in_distribution(name, corruption, severity):
    flat = np.full((128, 128, 3), 102, np.uint8)
    np.random.seed(0)
    theirs, found = published.corrupt(flat, severity, name).astype(float), ours(corruption, flat, severity)
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert abs(np.quantile(found, share) - np.quantile(theirs, share)) <= 5
    assert abs(found.std() - theirs.std()) < 0.02 * theirs.std() + 1
    assert abs(found.mean() - theirs.mean()) < 2
