"""A data set whose training part is poisoned, while its validation part and its test part are not touched."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from spikeproof.datasets import Dataset, DatasetSpec, FashionMNIST, Split, floats
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.poisoning.triggers import BadNets, Trigger

__all__ = ["Poisoned"]


@dataclass(frozen=True)
class Poisoned(DatasetSpec):
    """A data set in which some training images carry a trigger, so that a model learns a backdoor.

    A trigger with clean labels is put on images of the target class; any other is put on images of the other
    classes, which get the target label. Which images, and how each is changed, follows from the seed and the
    identity of the image. A study of models that are trained on it reports, beside the clean accuracy, how
    many test images of other classes get the target class, with the trigger and without it.

    Args:
        of: the data set of images.
        trigger: what is put on the images.
        share: share of the images that the trigger may take, in [0, 1].
        target: the target class, from 0.
        seed: of the choice of images and of the randomness of the trigger, at least 0.

    Raises:
        InputError: a setting is out of range, the data are no images, or the trigger does not fit them.

    Example:
        >>> from spikeproof.datasets import Digits
        >>> data = Poisoned(of=Digits(), trigger=BadNets(side=2), share=0.1, target=3).load()
        >>> data.notes
        ('113 of 1257 training images carry the trigger of a backdoor and have the label 3',)

    Source:
        Gu, Dolan-Gavitt & Garg 2017 (arXiv 1708.06733), for poisoned labels; Turner, Tsipras & Madry 2018 and
        Liu et al. 2020 (arXiv 2007.02343), for clean labels.
    """

    of: DatasetSpec = FashionMNIST()
    trigger: Trigger = BadNets()
    share: float = 0.1
    target: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        whole = isinstance(self.target, int) and isinstance(self.seed, int)
        if not (isinstance(self.of, DatasetSpec) and isinstance(self.trigger, Trigger) and whole):
            raise InputError(
                "A poisoned data set needs a data set, a trigger, and whole numbers as target and seed",
                f"{self.of!r:.40}, {self.trigger!r:.40}, target={self.target!r}, seed={self.seed!r}",
                "Try Poisoned(of=Digits(), trigger=BadNets(), target=0).",
            )
        if not 0 <= self.share <= 1 or self.target < 0 or self.seed < 0 or isinstance(self.of, Poisoned):
            raise InputError(
                "A poisoned data set needs a share in [0, 1], a target class and a seed of at least 0, and a "
                "data set that is not poisoned already",
                f"share={self.share}, target={self.target}, seed={self.seed}, of {type(self.of).__name__}",
                "Try share=0.1, target=0, seed=0.",
            )

    def load(self, root: Path | None = None) -> Dataset:
        data = self.of.load(root)
        if data.test.images.ndim != 4 or self.target >= len(data.classes):
            raise InputError(
                f"Images, and a target class below {len(data.classes)}, the number of classes",
                f"examples {list(data.test.images.shape[1:])}, target={self.target}",
                f"Poison a data set of images, with a target from 0 to {len(data.classes) - 1}.",
            )
        train, count = self._poisoned(data, root)
        label = "keep" if self.trigger.clean_label else "have"
        note = (
            f"{count} of {len(train)} training images carry the trigger of a backdoor and {label} the label "
            f"{data.classes[self.target]}"
        )
        return replace(
            data,
            name=f"poisoned-{data.name}",
            train=train,
            sha256=hashlib.sha256(f"{data.sha256} {self!r} {_digest(train.images)}".encode()).hexdigest(),
            notes=(*data.notes, note),
        )

    def locate(self, root: Path | None = None) -> str:
        return f"made of {type(self.of).__name__}, {self.of.locate(root)}"

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        return self.of.survey(root)

    def triggered(
        self, data: Dataset, x: Float[Tensor, "B C H W"], key: Key, root: Path | None = None
    ) -> Float[Tensor, "B C H W"]:
        """Images with the trigger, as an attack puts it on test images.

        Args:
            data: the data set, before it is poisoned; its training part may supply what the trigger is of.
            x: images in [0, 1].
            key: randomness of the trigger.
            root: the directory that is searched for data sets before all others, or None.
        """
        return self.trigger(x, self.trigger.material(data, self.target, root).to(x.device), key)

    def _poisoned(self, data: Dataset, root: Path | None) -> tuple[Split, int]:
        part, key = data.train, Key.of(self.seed).fold("poison")
        allowed = (part.labels == self.target) == self.trigger.clean_label
        rows = allowed.nonzero().flatten()
        order = key.fold("which").for_rows(part.ids[rows]).uniform((len(rows), 1))[:, 0].argsort()
        chosen = rows[order[: round(self.share * len(rows))]].sort().values
        images, labels = floats(part.images).clone(), part.labels.clone()
        if len(chosen):
            few = key.fold("trigger").for_rows(part.ids[chosen])
            images[chosen] = self.triggered(data, images[chosen], few, root)
            labels[chosen] = self.target
        return replace(part, images=images, labels=labels), len(chosen)


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()
