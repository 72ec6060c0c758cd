"""Ablations: studies over token mixers, sliding-window ratios and frames."""
