"""Reusable PyStream stages and sources that need nothing beyond the core."""

from .batch import Batch as Batch
from .count import Count as Count
from .jsonl import JsonLines as JsonLines
from .lines import Lines as Lines
from .log import Log as Log
from .pace import Pace as Pace
from .sample import Sample as Sample
from .tee import Tee as Tee
from .unbatch import Unbatch as Unbatch
from .window import Window as Window
