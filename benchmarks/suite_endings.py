"""What the last members of the standard suite for codes of levels add, on images of choice.

    python benchmarks/suite_endings.py MODEL [MODEL ...] --epsilon 0.1 --examples 60 --skip 150
    python benchmarks/suite_endings.py MODEL [MODEL ...] --epsilon 0.1 --examples 60 --starts l2 l1

Each ending continues the same suite, which was stopped after its first search with rectangles, and attacks
what that left: images left, and processor seconds on one thread. The images are the class-proportional sample
of so many test images; with `--skip`, those that a sample of the given size does not hold, so that an ending
that was chosen on that sample is confirmed on others. With `--starts`, the last search also begins at
what the standard suites of other threats found, projected to the budget. MODEL is a train cell of a study.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from spikeproof.attacks.answers.foundlevels import LevelSearch
from spikeproof.attacks.answers.queries import RectangleSearch
from spikeproof.attacks.answers.reachable import EncoderAwareSearch
from spikeproof.attacks.gradient.plain import FGSM
from spikeproof.catalogue.saved import load
from spikeproof.datasets import ClassProportional, Split
from spikeproof.evaluation.interim import Interim
from spikeproof.evaluation.outcomes import Clean
from spikeproof.evaluation.suites import Member, evaluate_suite, plan
from spikeproof.evaluation.verdicts import evaluate_clean
from spikeproof.experiments.repair.signing import dataset_of
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.threats import L1, L2, Linf, parse_epsilon

KEY = Key.of(0)
AGAIN = EncoderAwareSearch(steps=6, restarts=19, refine=30, near=True)
ENDINGS: dict[str, list[Member]] = {
    "nothing": [],
    "rectangles-long, encoder-aware-again with 30 single pixels (the plan of before)": [
        Member("rectangles-long", RectangleSearch(queries=300)),
        Member("encoder-aware-again", AGAIN),
    ],
    "level-search, 12,000 queries": [Member("level-search", LevelSearch(queries=12_000, near=True))],
    "level-search, 8,000 queries, then encoder-aware-again": [
        Member("level-search", LevelSearch(queries=8000, near=True)),
        Member("encoder-aware-again", replace(AGAIN, refine=0)),
    ],
    "encoder-aware-again, then level-search, 8,000 queries": [
        Member("encoder-aware-again", replace(AGAIN, refine=0)),
        Member("level-search", LevelSearch(queries=8000, near=True)),
    ],
}
OTHERS = {"l2": L2(1.0), "l1": L1(4.0)}
"""Threats whose images are projected to the budget of Linf."""


@dataclass(frozen=True)
class Begun:
    """A suite that was stopped, on one model and its images."""

    model: Classifier
    threat: Linf
    x: Tensor
    y: Tensor
    clean: Clean
    members: list[Member]
    rest: list[Member]
    state: Interim

    def ended(self, ending: Sequence[Member], starts: Tensor | None = None) -> tuple[int, float]:
        """Images left after an ending, and its processor seconds."""
        state = Interim(
            self.state.worst,
            self.state.broken_by.clone(),
            self.state.members,
            self.state.nearest.clone() if starts is None else starts,
            self.state.height.clone(),
        )
        began, members = time.process_time(), [*self.members, *ending]
        found = evaluate_suite(
            self.model,
            "standard",
            self.threat,
            self.x,
            self.y,
            self.clean,
            KEY,
            members=members,
            interim=state,
        )
        return int((found.attacked.right > 0).sum()), time.process_time() - began


def begun(model: Classifier, threat: Linf, x: Tensor, y: Tensor) -> Begun:
    """The standard suite up to the first search with rectangles."""
    clean, states = evaluate_clean(model, x, y, KEY), list[Interim]()
    names = [member.name for member in plan("standard", model, threat)]
    cut = names.index("rectangles") + 1
    members, rest = plan("standard", model, threat)[:cut], plan("standard", model, threat)[cut:]
    last = Member("not run", FGSM())  # the state before it is what is kept
    evaluate_suite(
        model, "standard", threat, x, y, clean, KEY,
        members=[*members, last], on_member=lambda state, _: states.append(state),
    )  # fmt: skip
    return Begun(model, threat, x, y, clean, members, rest, states[-1])


def chosen(test: Split, examples: int, skip: int) -> tuple[Tensor, Tensor]:
    """The class-proportional sample, or test images outside the one of size `skip`."""
    if not skip:
        part = ClassProportional()(test, examples)
        return part.images, part.labels
    held = {image.numpy().tobytes() for image in ClassProportional()(test, skip).images}
    rows = [i for i, image in enumerate(test.images) if image.numpy().tobytes() not in held][:examples]
    return test.images[rows], test.labels[rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--epsilon", default="0.1")
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--skip", type=int, default=0, help="leave out the sample of this size")
    parser.add_argument("--starts", nargs="*", choices=OTHERS, default=[], help="threats that give starts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threat = Linf(parse_epsilon(options.epsilon))
    for path in options.models:
        model = load(path)
        x, y = chosen(dataset_of(path, None, None).test, options.examples, options.skip)
        suite = begun(model, threat, x, y)
        print(f"{model.spec.encoder}, {model.spec.decoder}", flush=True)
        if not options.starts:
            for name, ending in {**ENDINGS, "the plan of now": suite.rest}.items():
                left, seconds = suite.ended(ending)
                print(f"    {left} left, {seconds:.1f} s: {name}", flush=True)
            continue
        search = [Member("level-search", LevelSearch(queries=8000, near=True))]
        left, seconds = suite.ended(search)
        print(f"    {left} left, {seconds:.1f} s: level-search from the nearest images of linf", flush=True)
        for name in options.starts:
            other = evaluate_suite(model, "standard", OTHERS[name], x, y, suite.clean, KEY).attacked
            starts = threat.project(other.x_adv, x)
            left, seconds = suite.ended(search, starts)
            fooled = int((suite.state.worst.right[model(starts).argmax(1) != y] > 0).sum())
            print(f"    {left} left, {seconds:.1f} s: level-search from what {OTHERS[name]} found; ", end="")
            print(f"{fooled} of the images left before are fooled by it at once", flush=True)


if __name__ == "__main__":
    main()
