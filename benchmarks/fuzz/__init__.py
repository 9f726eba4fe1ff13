"""Damaged files, odd settings, betas at and beyond their bounds, misbehaving parts: what becomes of each.

`python -m hgenv.benchmarks.fuzz --cases 1000`. One kind of input a module; what they share is in `case` and `damage`.
"""
