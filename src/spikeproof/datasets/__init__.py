"""Data sets: inputs and labels in a training, a validation and a test part that never change.

A member such as `FashionMNIST()` is a frozen dataclass that names a data set; `load` reads it. The validation
part is a fixed share of the training files and serves every choice; the test part is only ever measured.
Nothing is read or fetched on import, and nothing is fetched that is already on the machine.
"""

from spikeproof.datasets.audio import *
from spikeproof.datasets.cameras import *
from spikeproof.datasets.cifar import *
from spikeproof.datasets.cochlea import *
from spikeproof.datasets.images import *
from spikeproof.datasets.intake.census import *
from spikeproof.datasets.parts import *
from spikeproof.datasets.synthetic import *
from spikeproof.datasets.yinyang import *
