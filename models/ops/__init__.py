"""Recurrences of the token mixers: each as its definition, in chunked matrix form, and through a kernel library."""
