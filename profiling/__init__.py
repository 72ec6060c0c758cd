"""Speed and memory, measured beside the floor that physics sets.

timing.py        medians of repeats that take turns or follow each other, by CUDA events or the processor's clock
ceilings.py      what this machine can do: copy bandwidth and matrix rate, measured in the same run
floors.py        bytes and operations that a model cannot avoid, counted from its configuration
environment.py   clocks, throttling, and who else uses the GPU
models.py        models to profile: presets with random weights made on the device, or checkpoints
eager.py         the model's own forward pass with transformers' cache, the path of the published baseline
checks.py        what must hold of a model before a speed of it is recorded
session.py       cells, each a run folder; protocols; records
decode.py prefill.py streaming.py memory.py training.py   one kind of cell each, with what bounds it
command.py cli.py   `infinitevl-bench profile`
ops/             `bench ops`: recurrences, mixer layers and attention alone
"""
