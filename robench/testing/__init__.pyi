"""The public names of robench.testing."""

from .check import check_attack as check_attack
from .check import check_defense as check_defense
from .check import check_detector as check_detector
from .check import rule_names as rule_names
