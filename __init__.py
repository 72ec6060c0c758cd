"""infinitevl-bench: one hybrid backbone, many token mixers, every published figure beside what was measured."""

__version__ = "0.1.0"
