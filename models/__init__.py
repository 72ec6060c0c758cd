"""The hybrid vision-language backbone: configuration, token mixers, caches, presets, checkpoints."""
