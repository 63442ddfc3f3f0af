"""A record: one headline number of a study, with everything needed to say what it is a number of."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["DistanceRecord", "ProbeRecord", "Record"]


class Record(TypedDict):
    """One model under one attack with one budget, as `show --json` prints it.

    Accuracies and shares are fractions in [0, 1], intervals are 95 % Wilson intervals. The attack
    `worst-case` is the minimum over all attacks, image by image; `none` marks a study without attacks. A
    worst case has `certified`, the share of images proved robust, where a certificate applies
    (`certified_vote` is that of randomised smoothing, which speaks of a vote instead of the model), and a
    `verdict`, `supported`, `doubtful` or `withheld`; its `warnings` say why. `mean_exit` is the mean number
    of time steps after which a clean image is decided, the last step where a decoder knows no early exit, and
    `accuracy_by_step` what the accuracy would be if time were up after each step; null and empty where they
    were not measured. `nested` marks a number that began with what was found within a smaller budget, and a
    worst case with such numbers.
    """

    study: str
    dataset: str
    network: str
    neuron: str
    encoder: str
    decoder: str
    rule: str
    surrogate: str
    attack: str
    threat: str
    epsilon: float
    seed: int
    n: int
    clean_accuracy: float
    clean_ci_low: float
    clean_ci_high: float
    clean_all_draws: float
    robust_accuracy: float
    ci_low: float
    ci_high: float
    robust_all_draws: float
    draws: int
    stochastic: bool
    tie_share: float
    silent_share: float
    adversarial_tie_share: float
    adversarial_silent_share: float
    spikes_per_inference: float
    mean_exit: float | None
    adversarial_mean_exit: float | None
    accuracy_by_step: list[float]
    gradient_free: bool
    nested: bool
    certified: float | None
    certified_vote: float | None
    verdict: str | None
    warnings: list[str]
    model: str
    cell: str
    train_cell: str
    clean_cell: str
    steps: int


class ProbeRecord(TypedDict):
    """One model under one probe of timing, as `show --probes --json` prints it.

    `lost` is the clean accuracy less that under the probe, on the same images and draws of the code, with a
    95 % interval for the pairs and the p-value of no difference. `timing_share` is what was lost, as a share
    of what the clean accuracy is above chance; null where it is not above chance.
    """

    study: str
    dataset: str
    network: str
    neuron: str
    encoder: str
    decoder: str
    rule: str
    surrogate: str
    seed: int
    n: int
    steps: int
    probe: str
    clean_accuracy: float
    accuracy: float
    ci_low: float
    ci_high: float
    all_draws: float
    draws: int
    lost: float
    lost_low: float
    lost_high: float
    p_value: float
    timing_share: float | None
    tie_share: float
    silent_share: float
    spikes_per_inference: float
    model: str
    cell: str


class DistanceRecord(TypedDict):
    """How far one model's nearest adversarial images are, as `show --distances --json` prints it.

    Over the `counted` images, those that the model answers rightly: the share on which the search `found` an
    adversarial image at all, and the median of distances in the norm of the threat, in which what was not
    found is infinitely far; with 95 % intervals (Wilson; order statistics). The median is an upper bound,
    and null where nothing was found on half of the images. `unconfirmed` is the share that the search claimed
    and the model denied.
    """

    study: str
    dataset: str
    network: str
    neuron: str
    encoder: str
    decoder: str
    rule: str
    surrogate: str
    seed: int
    n: int
    attack: str
    threat: str
    clean_accuracy: float
    counted: int
    found: float | None
    found_low: float | None
    found_high: float | None
    median: float | None
    median_low: float | None
    median_high: float | None
    unconfirmed: float | None
    gradient_free: bool
    draws: int
    model: str
    cell: str
