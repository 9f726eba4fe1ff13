"""Real handwritten digits, read by a network that has seen nothing but drawn ones.

    cd examples/digits
    hgenv compare --config-dir conf env=digits optimizer=score_influence,fixed seed=0 budget.amount=20

The renderer is `draw.py`: thirty lines around Pillow. `parameters.yaml` says which of its parameters are drawn from
which distributions, and what of these is tuned: 21 numbers, such as how likely each font is, and how much digits slant.
The network sees drawn digits alone. 200 real ones, of scikit-learn's, say how well it does, and so what to draw;
1597 others are for the test.
"""

from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch
from draw import digit
from sklearn.datasets import load_digits

from hgenv import SGD, DataGenEnv, Metric, Picture, SampleData, Samples, Task
from hgenv.generators import BlackBox

HERE = Path(__file__).parent
HELD_OUT = 200  # real digits that score beta
HIDDEN = 64
RULE = SGD(0.1, momentum=0.9)


@dataclass(frozen=True)
class Digits(Samples):
    """Digits and which they are."""

    image: torch.Tensor  # (B, 8, 8), 0..1
    label: torch.Tensor  # (B,) int64


class Reading(Task):
    """Which digit is it?"""

    metrics = (Metric("error", "digits that are misread (%)", "%"),)
    max_loss = 10.0

    def training_loss(self, output, samples):
        """Cross entropy."""
        return torch.nn.functional.cross_entropy(output, samples.label, reduction="none")

    def validation_loss(self, output, data):
        """Its mean."""
        return self.training_loss(output, data.samples).mean()

    def score(self, output, data):
        """Share of digits that are misread."""
        return {"error": 100 * float((output.argmax(1) != data.samples.label).float().mean())}

    def picture(self, samples, output=None):
        """The digits; with the output for them, how sure the network was of something else."""
        shown, titles = samples.image, ("digit",)
        if output is not None:
            wrong = 1 - output.detach().softmax(1).gather(1, samples.label[:, None])
            shown, titles = wrong[..., None].expand(-1, 8, 8), ("error",)
        grey = (255 * shown.clamp(0, 1)).byte().cpu().numpy().repeat(4, 1).repeat(4, 2)
        return Picture((np.stack([grey] * 3, axis=-1),), titles)


class Reader:
    """A network with one hidden layer."""

    task = Reading()

    def initial_weights(self, seed):
        """Small random numbers."""
        rng, shapes = torch.Generator().manual_seed(seed), {"w": (64, HIDDEN), "b": (HIDDEN,), "v": (HIDDEN, 10)}
        return {name: 0.1 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}

    def output(self, weights, samples):
        """Logits."""
        hidden = torch.nn.functional.silu(samples.image.flatten(1) @ weights["w"] + weights["b"])
        return hidden @ weights["v"]

    def flops(self, kind, samples):
        """Of the two matrix products."""
        return 2 * (64 + 10) * HIDDEN * samples * {"validate": 1, "train": 3, "gradient": 9}[kind]


def real_digits():
    """Real digits to validate and to test on."""
    found = load_digits()
    images, labels = torch.tensor(found.images / 16).float(), torch.tensor(found.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = (order[:HELD_OUT], order[HELD_OUT:])
    return [SampleData(Digits(images[part], labels[part]), "handwritten digits (scikit-learn)") for part in parts]


class DigitsEnv(DataGenEnv):
    """Tune how digits are drawn."""

    def __init__(self, *, rule=RULE, workers=1, cache=None, **options):
        generator = BlackBox(digit, HERE / "parameters.yaml", samples=Digits, workers=workers, cache=cache, version="1")
        super().__init__(generator, Reader(), *real_digits(), rule=rule, **options)


gymnasium.register("Digits-v0", entry_point=DigitsEnv)
