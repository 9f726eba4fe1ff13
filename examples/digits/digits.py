"""Real handwritten digits, and a small network that reads them."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from hgenv import LabelledImages, SampleData
from hgenv.datasets import Folder

VALIDATED = 200  # real digits that say what to draw; the others are for the test


class Reader(nn.Module):
    """One hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, 10) of images (B, 1, 8, 8)."""
        return self.layers(image)


def photos() -> Folder:
    """1797 digits that people wrote, 8 x 8 pixels each."""
    found = load_digits()
    image, label = torch.tensor(found.images / 16).float()[:, None], torch.tensor(found.target).long()
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))
    parts = [LabelledImages(image[some], label[some]) for some in (order[:VALIDATED], order[VALIDATED:])]
    validation, test = (SampleData(part, f"{len(part)} handwritten digits (scikit-learn)") for part in parts)
    return Folder(validation, test, tuple("0123456789"))
