"""What runs inside Blender: renders one mesh after another that the other end of a connection sends.

    blender -b --factory-startup -P blender_worker.py -- ADDRESS
    python blender_worker.py -- ADDRESS          # where `import bpy` works

It needs Blender's Python and NumPy alone. A request is an .npz file with `vertices` (V, 3), `faces` (F, 3), `light`
(3,) and `size`; the answer is a float64, the CPU seconds that this process has spent so far, and (S, S, 6) float32:
whether the centre of a pixel sees the object, its normal, its z, and what it receives of the light.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Client
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

KEY = "HGENV_BLENDER_KEY"
PASSES = ("Combined.A", "Normal.X", "Normal.Y", "Normal.Z", "Depth.Z", "DiffDir.R")
FULL = "Diffuse Direct.R"  # what Blender 5 calls the last of them


def set_up() -> tuple[Any, Any, Any, Any]:
    """An empty scene: a white diffuse mesh, a sun, an orthographic camera two units wide."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    render, cycles = scene.render, scene.cycles
    render.engine = "CYCLES"
    cycles.device, cycles.samples = "CPU", 1
    cycles.use_adaptive_sampling = cycles.use_denoising = False
    # A sample at the middle of each pixel, and no light but the sun's: what is seen is exact, and one sample will do.
    cycles.pixel_filter_type, cycles.filter_width = "BOX", 0.01
    cycles.max_bounces = 0
    render.resolution_percentage = 100
    render.threads_mode, render.threads = "FIXED", 1
    render.use_persistent_data = True
    render.film_transparent = True
    layer = scene.view_layers[0]
    layer.use_pass_z = layer.use_pass_normal = layer.use_pass_diffuse_direct = True
    settings = render.image_settings
    if hasattr(settings, "media_type"):  # from Blender 5 on
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format, settings.color_depth, settings.exr_codec = "OPEN_EXR_MULTILAYER", "32", "NONE"

    camera = bpy.data.cameras.new("camera")
    camera.type, camera.ortho_scale = "ORTHO", 2.0
    scene.camera = bpy.data.objects.new("camera", camera)
    sun = bpy.data.lights.new("sun", "SUN")
    sun.energy, sun.angle = np.pi, 0.0  # a white plane that faces it sends out 1
    lamp = bpy.data.objects.new("sun", sun)
    lamp.rotation_mode = "QUATERNION"
    white = bpy.data.materials.new("white")
    if not white.node_tree:  # before Blender 5, nodes are asked for
        white.use_nodes = True
    nodes, links = white.node_tree.nodes, white.node_tree.links
    nodes.clear()
    surface, end = nodes.new("ShaderNodeBsdfDiffuse"), nodes.new("ShaderNodeOutputMaterial")
    surface.inputs["Color"].default_value = (1, 1, 1, 1)
    links.new(surface.outputs[0], end.inputs[0])
    thing = bpy.data.objects.new("object", bpy.data.meshes.new("object"))
    for each in (scene.camera, lamp, thing):
        scene.collection.objects.link(each)
    return scene, lamp, thing, white


def picture(scene: Any, lamp: Any, thing: Any, white: Any, asked: Any, path: str) -> Any:
    """Render a mesh, and read what was rendered."""
    vertices, faces = asked["vertices"], asked["faces"]
    scene.render.resolution_x = scene.render.resolution_y = int(asked["size"])
    mesh, old = bpy.data.meshes.new("object"), thing.data
    mesh.vertices.add(len(vertices))
    mesh.vertices.foreach_set("co", vertices.astype(np.float32).ravel())
    mesh.loops.add(3 * len(faces))
    mesh.loops.foreach_set("vertex_index", faces.astype(np.int32).ravel())
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * len(faces), 3, dtype=np.int32))
    mesh.polygons.foreach_set("use_smooth", np.zeros(len(faces), bool))
    mesh.update(calc_edges=True)
    mesh.materials.append(white)
    thing.data = mesh
    bpy.data.meshes.remove(old)
    lamp.rotation_quaternion = Vector(asked["light"]).to_track_quat("Z", "Y")
    height = float(vertices[:, 2].max()) + 1
    scene.camera.location = (0, 0, height)
    scene.camera.data.clip_start, scene.camera.data.clip_end = 0.01, height + 2 - float(vertices[:, 2].min())
    scene.render.filepath = path
    with silence():
        bpy.ops.render.render(write_still=True)
    passes = read_exr(path)
    found = {name.split(".", 1)[1]: values for name, values in passes.items()}
    channels = [found[name if name in found else FULL] for name in PASSES]
    seen = np.stack(channels, -1)
    seen[..., 4] = height - seen[..., 4]
    return seen


def read_exr(path: str) -> dict[str, Any]:
    """Channels by name, (S, S) float32 each, of an uncompressed OpenEXR file of scan lines, in one part or several.

    The format: https://openexr.com/en/latest/OpenEXRFileLayout.html
    """
    with open(path, "rb") as file:
        data = file.read()
    several = bool(data[5] & 0x10)
    at, parts = 8, list[dict[str, Any]]()
    while True:
        header, at = read_header(data, at)
        if not header:
            break
        parts.append(header)
        if not several:
            break
    heights = [len(range(part["dataWindow"][1], part["dataWindow"][3] + 1)) for part in parts]
    at += 8 * sum(heights)  # tables of where each line begins, which here is one after the other
    lines: list[list[tuple[int, Any]]] = [[] for _ in parts]
    for _ in range(sum(heights)):
        number = 0
        if several:
            (number,) = struct.unpack_from("<i", data, at)
            at += 4
        y, count = struct.unpack_from("<ii", data, at)
        at += 8
        lines[number].append((y, np.frombuffer(data, "<f4", count // 4, at)))
        at += count
    found: dict[str, Any] = {}
    for part, own in zip(parts, lines, strict=True):
        names = part["channels"]
        whole = np.stack([values for _, values in sorted(own, key=lambda line: line[0])])
        found |= dict(zip(names, whole.reshape(len(whole), len(names), -1).transpose(1, 0, 2), strict=True))
    return found


def read_header(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    """What a header says of channels and of the window, and where it ends; an empty one ends the headers."""
    header: dict[str, Any] = {}
    while data[at]:
        end = data.index(0, at)
        name = data[at:end].decode()
        at = data.index(0, end + 1) + 1  # past the type
        (count,) = struct.unpack_from("<i", data, at)
        value = data[at + 4 : at + 4 + count]
        at += 4 + count
        if name == "dataWindow":
            header[name] = struct.unpack("<4i", value)
        elif name == "compression" and value[0]:
            raise ValueError("the file is compressed")
        elif name == "channels":
            names, place = list[str](), 0
            while value[place]:
                end = value.index(0, place)
                if struct.unpack_from("<i", value, end + 1)[0] != 2:
                    raise ValueError("a channel is not float32")
                names.append(value[place:end].decode())
                place = end + 17
            header[name] = names
    return header, at + 1


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Blender says where it saved each frame, from C."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def main() -> None:
    """Serve until the other end closes."""
    address = sys.argv[sys.argv.index("--") + 1]
    parts = set_up()
    with tempfile.TemporaryDirectory() as folder, Client(address, authkey=bytes.fromhex(os.environ[KEY])) as other:
        path = os.path.join(folder, "frame.exr")
        while True:
            try:
                request = other.recv_bytes()
            except EOFError:
                return
            seen = picture(*parts, np.load(io.BytesIO(request)), path)
            frame = np.ascontiguousarray(seen, np.float32).tobytes()
            other.send_bytes(struct.pack("<d", time.process_time()) + frame)


if __name__ == "__main__":
    main()
