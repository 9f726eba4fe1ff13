from .by_name import load_heads, load_model, load_photos, some_photos
from .folder import VARIABLE, DataError
from .heads import Heads
from .labelled import Folder
from .morphable import MorphableModel
from .photos import NativePhoto, NativeTruth, Photos, prepare
from .written import Writer

__all__ = [
    "VARIABLE",
    "DataError",
    "Folder",
    "Heads",
    "MorphableModel",
    "NativePhoto",
    "NativeTruth",
    "Photos",
    "Writer",
    "load_heads",
    "load_model",
    "load_photos",
    "prepare",
    "some_photos",
]
