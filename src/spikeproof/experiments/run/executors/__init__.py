"""Where the workers of a study run; every executor, order or mixture gives the same set of outcomes."""

from spikeproof.experiments.run.executors.pools import Processes as Processes
from spikeproof.experiments.run.executors.pools import Serial as Serial
from spikeproof.experiments.run.executors.seam import Executor as Executor
from spikeproof.experiments.run.executors.seam import Lost as Lost
from spikeproof.experiments.run.queue.failures import Failure as Failure
from spikeproof.experiments.run.queue.leases import Progress as Progress
