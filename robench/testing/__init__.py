"""For authors of plugins: what holds for every attack, defense and detector, checked on small random data."""

from robench.testing.check import check_attack, check_defense, check_detector, rule_names

__all__ = ["check_attack", "check_defense", "check_detector", "rule_names"]
