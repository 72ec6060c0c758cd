"""The fast path: the same model with merged projections, fixed-address caches, fused kernels and CUDA graphs."""
