"""Speed and memory, measured beside the floor that physics sets.

timing.py        medians of repeats that take turns, by CUDA events or the processor's clock
ceilings.py      what this machine can do: copy bandwidth and matrix rate, measured in the same run
floors.py        bytes and operations that a model cannot avoid, counted from its configuration
environment.py   clocks, throttling, and who else uses the GPU
ops/             `bench ops`: recurrences and mixer layers alone
"""
