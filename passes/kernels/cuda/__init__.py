"""Algorithms for CUDA targets: the operators' definitions in TE under the schedules of TVM's dlight.

Nothing here was run on a GPU: see ``docs/cuda.md``.
"""
