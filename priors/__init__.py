"""The prior engine: random structural causal models become batches of tabular tasks, inside jit."""

from .compiling import compiler_options as compiler_options
from .interventional import InterventionalBatch as InterventionalBatch
from .interventional import interventional as interventional
from .laws import law_arrays as law_arrays
from .propagate import Intervention as Intervention
from .sampler import make_sampler as make_sampler
from .sampler import sample_blocks as sample_blocks
from .scm import SCM as SCM
from .stream import sample as sample
from .stream import stream as stream
from .task import TableShape as TableShape
from .task import TaskBatch as TaskBatch
from .task import check_tasks as check_tasks
