"""A record: one headline number of a study, with the model, the attack and the budget that it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import TypedDict

from spikeproof.analysis.spike_analysis import CostSummary, LayerSummary, Sensitivity

__all__ = [
    "Base",
    "Broke",
    "CorruptionError",
    "CorruptionRecord",
    "DistanceRecord",
    "Effort",
    "Parts",
    "ProbeRecord",
    "Proof",
    "Record",
    "SpikeRecord",
    "TransferGrid",
    "data_notes",
    "value_of",
    "values_of",
]


class Effort(TypedDict):
    """The evidence of one attack; null where a value was not measured.

    `attacked` counts the images that were attacked, since images that the model gets wrong without an
    attack are not; queries are forward and backward passes over all of them, and `outside_queries` the
    forward passes on images outside [0, 1], answered for the nearest image inside. `unmoved_share` is the
    share of attacked images that were returned unchanged, `zero_gradient_share` the share of gradients that
    were zero everywhere. `mean_distance` and `max_distance` are taken over all images, in the measure of the
    threat; the means in single norms are taken over the images that changed. `eight_bit_accuracy` is the
    accuracy once the images are rounded to 8 bits, and `silent_success_share` the share of images for which
    the search passed an image that the model got wrong and returned another. Under a threat of objects in a
    scene, `accuracy_in_views` is the accuracy in random views of the returned images, and
    `clean_accuracy_in_views` that in the same views of the clean ones.

    `steps` counts the rows of the attack's trace, all restarts one after the other; `fall` is the accuracy
    against them, as pairs of a step and the accuracy after it wherever it changed, (-1, ...) before the
    attack. It is empty where an attack does not tell when examples fell (searches over spike patterns,
    foreign attacks, suites) and for stochastic models, which one lucky draw fools for a moment.
    `loss_by_step` is the mean objective; `losses.safetensors` of the cell holds the objective of each image.
    """

    attacked: int | None
    budget_violations: int | None
    forward_queries: int | None
    backward_queries: int | None
    outside_queries: int | None
    zero_gradient_share: float | None
    unmoved_share: float | None
    mean_distance: float | None
    max_distance: float | None
    mean_linf: float | None
    mean_l2: float | None
    mean_l1: float | None
    mean_l0: float | None
    eight_bit_accuracy: float | None
    accuracy_in_views: float | None
    clean_accuracy_in_views: float | None
    silent_success_share: float | None
    steps: int
    median_step_of_fall: float | None
    last_step_of_fall: int | None
    fall: list[tuple[int, float]]
    loss_by_step: list[float | None]


class Broke(TypedDict):
    """What one attack contributed to a worst case, or one member to a suite.

    `on` counts the images it was run on and `broke` is the accuracy that counts as taken by it: each image
    counts for the one attack that hurt it most, of equals the one that is stronger as a whole; in a suite,
    whose members see only what still stands, for the first. `alone` is the accuracy under it alone and
    `without` what the worst case would be without it; both are null in a suite, where `left` is the accuracy
    after it.
    """

    attack: str
    on: int
    alone: float | None
    broke: float
    left: float | None
    without: float | None
    gradient_free: bool
    forward_queries: int
    backward_queries: int


class Proof(TypedDict):
    """What one certificate proves at one budget: a lower bound of the robust accuracy of its subject.

    `subject` is `model`, or the classifier that the certificate is about instead, such as a vote.
    `reason` says why the certificate does not apply, and then there is no number. The interval accounts for
    the choice of images.
    """

    certificate: str
    subject: str
    certified: float | None
    ci_low: float | None
    ci_high: float | None
    reason: str | None


class Parts(TypedDict):
    """The parts of a model by their names in tables, and the seed of its training."""

    network: str
    neuron: str
    encoder: str
    decoder: str
    surrogate: str
    rule: str
    seed: int


class _Measured(TypedDict):
    """Where the numbers of a model come from."""

    study: str
    dataset: str


class Base(_Measured, Parts):
    """The part that all records of a model share: its parts and its results on clean images."""

    n: int
    clean_accuracy: float
    clean_argmax: float | None
    clean_ci_low: float
    clean_ci_high: float
    clean_all_draws: float
    clean_vote: float | None
    draws: int
    stochastic: bool
    tie_share: float
    silent_share: float
    spikes_per_inference: float | None
    mean_exit: float | None
    accuracy_by_step: list[float]
    model: str
    train_cell: str
    clean_cell: str
    steps: int
    data_notes: list[str]
    backdoor_success: float | None
    backdoor_low: float | None
    backdoor_high: float | None
    backdoor_without: float | None
    backdoor_suspect: int | None
    backdoor_p_value: float | None


class Record(TypedDict):
    """One model under one attack with one budget, as `show --json` prints it.

    Accuracies and shares are fractions in [0, 1], intervals are 95 % Wilson intervals. The attack
    `worst-case` is the minimum over all attacks, image by image; `none` marks a study without attacks. A
    worst case has `certified`, the share of images proved robust, where a certificate applies
    (`certified_vote` is the share that randomised smoothing proves, for a vote instead of the model), and a
    `verdict`, `supported`, `preliminary`, `doubtful` or `withheld`; its `warnings` say why, and its `notes`
    add what does not affect the verdict. A tie of the best classes counts as an error; `clean_argmax` and
    `robust_argmax` are the accuracies if the first of the best classes were the answer, on images whose
    attack ended at a tie, and null where that was not measured. `mean_exit` is the mean number of time
    steps after which a clean image is decided, the last step where a decoder knows no early exit, and
    `accuracy_by_step` what the accuracy would be if time were up after each step; null and empty where they
    were not measured. `proofs` has every certificate that was tried, `effort` the evidence of one attack
    (null in a worst case), and `broken_by` says which attack broke what, in a worst case and in a suite.
    `nested` marks a number that began with what was found within a smaller budget, and a worst case with
    such numbers.

    `missing` names the attacks of the study that failed or are not computed yet; the worst case is then
    taken over the other attacks and is not supported; it is empty for a single attack.

    `data_notes` describe how the files of the data set differ from the published ones, for example that they
    are a subset; empty where they do not differ. Of a model that was trained on poisoned data,
    `backdoor_success` is the share of images of other classes that get the target class with the trigger,
    with its interval, and `backdoor_without` the share without it; `backdoor_suspect` is the class that the
    test without data suspects, and `backdoor_p_value` how often chance gives as odd a margin. All are null
    for other models, and the last two for given models, with fewer than four classes and in older cells.

    Of a stochastic model, accuracies are means over `draws` draws per image; `..._vote` is the share of
    images on which the majority of the draws is right, and `..._all_draws` the share on which all draws are.

    Where `spikeproof audit` tried a worst case again, `before_accuracy`, `before_verdict`, `before_n` and
    `before_warnings` are the values of the study before the repairs, and `because` of an added attack is the
    check that asked for it.
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
    clean_argmax: float | None
    clean_ci_low: float
    clean_ci_high: float
    clean_all_draws: float
    robust_accuracy: float
    robust_argmax: float | None
    ci_low: float
    ci_high: float
    robust_all_draws: float
    clean_vote: float | None
    robust_vote: float | None
    draws: int
    stochastic: bool
    tie_share: float
    silent_share: float
    adversarial_tie_share: float
    adversarial_silent_share: float
    spikes_per_inference: float | None
    mean_exit: float | None
    adversarial_mean_exit: float | None
    accuracy_by_step: list[float]
    gradient_free: bool
    nested: bool
    certified: float | None
    certified_low: float | None
    certified_high: float | None
    certified_vote: float | None
    proofs: list[Proof]
    effort: Effort | None
    broken_by: list[Broke]
    verdict: str | None
    warnings: list[str]
    notes: list[str]
    missing: list[str]
    because: str | None
    before_accuracy: float | None
    before_verdict: str | None
    before_n: int | None
    before_warnings: list[str]
    model: str
    cell: str
    train_cell: str
    clean_cell: str
    steps: int
    data_notes: list[str]
    backdoor_success: float | None
    backdoor_low: float | None
    backdoor_high: float | None
    backdoor_without: float | None
    backdoor_suspect: int | None
    backdoor_p_value: float | None


class _Named(TypedDict):
    """The model, its study, and the number of images."""

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


class ProbeRecord(_Named):
    """One model under one timing probe, as `show --probes --json` prints it.

    `lost` is the clean accuracy minus the accuracy under the probe, on the same images and the same draws of
    the encoder, with a paired 95 % interval and the p-value of the hypothesis of no difference.
    `timing_share` is `lost` divided by the difference between clean accuracy and chance; null where the clean
    accuracy is not above chance.
    """

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
    spikes_per_inference: float | None
    model: str
    cell: str


class CorruptionRecord(_Named):
    """One model under one natural corruption of one severity, as `show --corruptions --json` prints it.

    `lost` is the clean accuracy minus the accuracy on the corrupted examples, on the same examples and the
    same draws of the encoder, with a paired 95 % interval and the p-value of the hypothesis of no difference.
    """

    corruption: str
    severity: int
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
    tie_share: float
    silent_share: float
    spikes_per_inference: float | None
    model: str
    cell: str


class CorruptionError(_Named):
    """The mean corruption error of one model, as `show --corruptions --json` prints it.

    `error` is the mean error over all corruptions and severities of the study, with a 95 % bootstrap interval
    over the images. `by_corruption` has the mean over severities for each. Where the study names a baseline,
    `normalised` is the mean over corruptions of the model's error divided by that of the baseline, which was
    trained with the same seed, and `relative` the same for the errors beyond the clean error; at 1 the model
    is as good as the baseline. They are null where the baseline makes no such error. All of these are null as
    long as a cell of the model, or of the baseline, is missing or failed; `missing` names it.
    """

    clean_accuracy: float
    corruptions: int
    severities: int
    error: float | None
    error_low: float | None
    error_high: float | None
    by_corruption: dict[str, float]
    baseline: str | None
    normalised: float | None
    relative: float | None
    missing: list[str]
    model: str


class DistanceRecord(_Named):
    """How far one model's nearest adversarial images are, as `show --distances --json` prints it.

    Only the `counted` images, which the model answers rightly, are searched. `found` is the share of them for
    which the search found an adversarial image, with a 95 % Wilson interval, and `median` the median distance
    in the norm of the threat, with a 95 % interval from order statistics. An image without a result counts as
    infinitely far, so the median is null where the search found nothing on half of the images; it is an upper
    bound. `unconfirmed` is the share of images for which the model's verdict did not confirm the image that
    the search returned.
    """

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


class SpikeRecord(_Named):
    """What an attack does to the spikes of one model, as `show --spikes --json` prints it.

    `layers` holds the input, if its code has spikes, and every layer of spiking neurons in order; `cost` and
    `attacked_cost` are means per image up to the decision. The images are those that `attack` of the analysis
    returned, which is one attack and not the worst case over all.
    """

    analysis: str
    threat: str
    epsilon: float
    clean_accuracy: float
    attacked_accuracy: float
    layers: list[LayerSummary]
    cost: CostSummary
    attacked_cost: CostSummary
    sensitivity: Sensitivity
    model: str
    cell: str


class TransferGrid(_Measured):
    """One attack on every model of a study, judged on every model, as `show --transfers --json` prints it.

    `accuracy[i][j]` is the accuracy of model `j` on images that were made on model `i`: the attack on the
    model itself stands on the diagonal. It is null where the study does not have it, its cell is not
    finished, or an image lies beyond the budget. `models` names the models by the parts in which they differ,
    and `clean` has their clean accuracies. Each entry is one attack and no worst case.
    """

    attack: str
    threat: str
    epsilon: float
    seed: int
    n: int
    models: list[str]
    clean: list[float | None]
    accuracy: list[list[float | None]]


def data_notes(metrics: Mapping[str, object]) -> list[str]:
    """The notes about the files of the data set in the metrics of a train cell.

    Example:
        >>> data_notes({"data_notes": ["a subset"]}), data_notes({})
        (['a subset'], [])
    """
    noted = metrics.get("data_notes")
    return [str(note) for note in noted] if isinstance(noted, list) else []


def value_of(record: Mapping[str, object], field: str) -> object:
    """The value of a field of any record, by a name that is known at run time only.

    Example:
        >>> value_of({"encoder": "latency"}, "encoder")
        'latency'
    """
    return record[field]


def values_of(records: Iterable[Mapping[str, object]], field: str) -> set[object]:
    """The different values of a field among records.

    Example:
        >>> values_of([{"encoder": "latency"}, {"encoder": "latency"}], "encoder")
        {'latency'}
    """
    return {*map(itemgetter(field), records)}
