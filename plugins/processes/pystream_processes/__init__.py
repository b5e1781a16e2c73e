"""Stages of PyStream in worker processes.

Parent: ``_placement`` turns a stage's specification into one of a ``_placed`` stage, which owns
one ``_process`` at a time; ``_launcher`` starts them through one server (``_server``), and
``_pool`` owns the shared memory. Child: ``_child`` answers, with ``_mapping`` for the memory.
Both: ``_wire`` frames messages, ``_packing`` turns values into their parts.
"""

from ._limits import Limits as Limits, limits as limits
from ._placement import ProcessPlacement as ProcessPlacement
from ._pool import PoolStatistics as PoolStatistics, shared_memory as shared_memory
from ._raised import ChildTraceback as ChildTraceback, RemoteError as RemoteError
