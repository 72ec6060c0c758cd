"""Profilers: latency, memory, throughput."""
