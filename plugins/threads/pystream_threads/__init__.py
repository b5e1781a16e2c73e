"""The threads executor of PyStream: one thread per worker, credit channels between stages."""

from ._executor import ThreadsExecutor as ThreadsExecutor
