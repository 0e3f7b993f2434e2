"""Clip sources: the synthetic 360 world and its assets."""
