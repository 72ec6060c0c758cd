"""`infinitevl-bench bench ops`: recurrences, mixer layers and attention alone, checked and timed side by side.

geometry.py     the shapes: those of presets tiny and infinitevl-4b
contenders.py   what is compared: a thing, its implementations, its inputs, its unavoidable work
recurrences.py  a mixer's recurrence, in every form of ours and of transformers
layers.py       a mixer's whole layer, ours and flash-linear-attention's, and a decode step of it
attention.py    full and sliding-window attention, which the mixers replace
check.py        agreement with the definition, before anything is timed
measure.py      timing, and what it means: rates, ratios, growth, records
show.py         the tables and the line of JSON
command.py      the command
"""
