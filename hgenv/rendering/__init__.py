"""Rendering, in families: solids made of primitives (`csg`), deformed meshes (`surfaces`), and their light (`shading`).

Each family has a protocol, a reference in torch, the same compiled for a CPU, and oracles that share nothing with them.
"""
