"""Write random shapes of the grammar to files that any 3D program opens. Needs `pip install 'hgenv[mesh]'`.

    python examples/export_mesh.py

A sample is a function of a decision vector and a sample seed. The same pair gives the same shape, always.

You see three files, such as shape-7.glb, in the folder where you are, and a line about each. Open them in
Blender, MeshLab or a browser. The shapes are solids: unions and differences of spheres, boxes, cones and tetrahedra.
"""

from hgenv.generators import ShapeGenerator

generator = ShapeGenerator()
for seed in (7, 8, 21):  # any whole numbers
    mesh = generator.mesh(generator.space.initial, seed)
    mesh.export(f"shape-{seed}.glb")  # or .obj, .ply, .stl
    closed = "watertight" if mesh.is_watertight else "not watertight"
    print(f"shape-{seed}.glb: {len(mesh.faces)} triangles, {closed}, volume {mesh.volume:.3f}")
