"""PyStream stages for sensor readings."""

from .smooth import Smooth
from .threshold import Alarm, Threshold

__all__ = ["Alarm", "Smooth", "Threshold"]
