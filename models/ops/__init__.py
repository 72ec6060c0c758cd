"""Recurrences: a step-by-step reference, a chunked torch form, and kernels of other libraries."""
