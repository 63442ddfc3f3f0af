"""Data sets: inputs and labels in a training, a validation and a test part that never change.

A member such as `FashionMNIST()` is a frozen dataclass that names a data set; `load` reads it. The validation
part is a fixed share of the training files and serves every choice; the test part is only ever measured.
Nothing is read or fetched on import, and nothing is fetched that is already on the machine.
"""

from spikeproof.datasets.audio import SpokenDigits
from spikeproof.datasets.cameras import CIFAR10DVS, NMNIST, DVS128Gesture
from spikeproof.datasets.cifar import CIFAR10, CIFAR100
from spikeproof.datasets.cochlea import SHD, SSC
from spikeproof.datasets.images import MNIST, Digits, FashionMNIST
from spikeproof.datasets.parts import Dataset, Source, Split, floats, locate
from spikeproof.datasets.synthetic import Randman
from spikeproof.datasets.yinyang import YinYang

__all__ = [
    "CIFAR10",
    "CIFAR10DVS",
    "CIFAR100",
    "MNIST",
    "NMNIST",
    "SHD",
    "SSC",
    "DVS128Gesture",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "Randman",
    "Source",
    "Split",
    "SpokenDigits",
    "YinYang",
    "floats",
    "locate",
]
