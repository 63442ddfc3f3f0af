"""Square on images of awkward sizes, and the schedule of its patches."""

import pytest
import torch

from spikeproof.attacks.answers.queries import Square, _pyramid, _schedule, _window
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats import L2, Linf


def brightness(images, key=None):
    """Answers class 0 while the image is brighter than 0.4 on average."""
    mean = images.flatten(1).mean(1)
    return torch.stack([mean, torch.full_like(mean, 0.4)], 1)


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.3), L2(20.0)], ids=repr)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (3, 2, 2), (1, 28, 3), (2, 5, 4), (1, 11, 11)])
def test_images_of_any_size_stay_within_budget_and_get_no_better(threat, shape):
    x, y = 0.3 + 0.6 * Key.of(0).uniform((4, *shape)), torch.zeros(4, dtype=torch.int64)
    found = Square(threat, 40)(brightness, x, y, Key.of(0))
    assert threat.contains(found.x_adv, x).all()
    assert found.success.dtype == torch.bool
    assert (found.queries <= 41).all()
    last = brightness(found.x_adv)
    assert (last[:, 1] - last[:, 0] >= found.losses[0] - 1e-6).all()  # no worse than the first candidate


def test_linf_candidates_are_stripes_then_squares_of_full_size():
    x, y = torch.full((3, 2, 6, 7), 0.5), torch.zeros(3, dtype=torch.int64)
    first = Square(Linf(0.1), 1)(brightness, x, y, Key.of(0)).x_adv - x
    assert torch.allclose(first.abs(), torch.tensor(0.1))
    assert torch.equal(first, first[:, :, :1].expand_as(first))
    assert first.unique().numel() > 1
    later = Square(Linf(0.1), 30)(brightness, x, y, Key.of(0)).x_adv - x
    assert torch.allclose(later.abs(), torch.tensor(0.1))
    assert (later.sum((1, 2, 3)) < first.sum((1, 2, 3))).all()


def test_l2_candidates_use_the_whole_budget():
    x, y = torch.full((3, 2, 6, 7), 0.5), torch.zeros(3, dtype=torch.int64)
    for queries in (1, 30):
        found = Square(L2(0.3), queries)(brightness, x, y, Key.of(0)).x_adv
        assert torch.allclose((found - x).flatten(1).norm(dim=1), torch.tensor(0.3), atol=1e-5)


def test_square_sides_follow_the_published_schedule_scaled_to_the_number_of_queries():
    assert [_schedule(q, 10_000) for q in (0, 10, 11, 51, 8001)] == [1, 1, 0.5, 0.25, 0.5**9]
    assert _schedule(101, 1000) == _schedule(1010, 10_000)


def test_windows_are_whole_squares_anywhere_in_the_image():
    windows = _window(6, 5, 3, 400, Key.of(0), torch.zeros(1))[:, 0]
    assert (windows.sum((1, 2)) == 9).all()
    assert (windows.any(2).sum(1) == 3).all()
    corners = {tuple(w.nonzero()[0].tolist()) for w in windows}
    assert corners == {(i, j) for i in range(4) for j in range(3)}


@pytest.mark.parametrize("side", range(1, 12))
def test_a_pyramid_has_unit_length_and_two_opposite_halves(side):
    tile = _pyramid(side, torch.zeros(1, dtype=torch.float64))
    assert tile.shape == (side, side)
    assert tile.norm().item() == pytest.approx(1)
    if side > 1:
        assert (tile[: side // 2] > 0).all()
        assert (tile[side // 2 :] < 0).all()


@pytest.mark.parametrize("side", [2, 5, 8, 11])
def test_a_pyramid_is_its_sum_of_squares_around_two_centres(side):
    """Pixel by pixel: 1 / (k + 1)^2 for every centred square of half width k + 1/2 that holds the pixel."""

    def height(i, j, tall):
        ring = max(abs(i - (tall - 1) / 2), abs(j - (side - 1) / 2))
        return sum(1 / (k + 1) ** 2 for k in range(max(tall, side) // 2 + 1) if ring <= k + 0.5)

    upper, lower = side // 2, side - side // 2
    wanted = [[height(i, j, upper) for j in range(side)] for i in range(upper)]
    wanted += [[-height(i, j, lower) for j in range(side)] for i in range(lower)]
    tile = torch.tensor(wanted, dtype=torch.float64)
    assert torch.allclose(_pyramid(side, tile), tile / tile.norm())


def test_vectors_are_refused_with_the_attack_that_takes_them():
    with pytest.raises(InputError, match="UniformNoise"):
        Square(Linf(0.1))(brightness, torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), Key.of(0))
