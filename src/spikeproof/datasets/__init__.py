"""Data sets: inputs and labels in a training, a validation and a test part that never change.

A member such as `FashionMNIST()` is a frozen dataclass that describes a data set, and its `load` reads the
data. The validation part is a fixed share of the training examples, on which every choice is made; the test
part is used for measurements only. Importing this package reads and downloads nothing, and data that are
already on the machine are not downloaded again.
"""

from spikeproof.datasets.audio import *
from spikeproof.datasets.cameras import *
from spikeproof.datasets.cifar import *
from spikeproof.datasets.cochlea import *
from spikeproof.datasets.generated.enlarged import *
from spikeproof.datasets.generated.synthetic import *
from spikeproof.datasets.generated.yinyang import *
from spikeproof.datasets.images import *
from spikeproof.datasets.intake.census import *
from spikeproof.datasets.owned.arrays import *
from spikeproof.datasets.owned.division import *
from spikeproof.datasets.owned.eventfolder import *
from spikeproof.datasets.owned.huggingface import *
from spikeproof.datasets.owned.imagefolder import *
from spikeproof.datasets.owned.objects import *
from spikeproof.datasets.owned.tonicsets import *
from spikeproof.datasets.parts import *
