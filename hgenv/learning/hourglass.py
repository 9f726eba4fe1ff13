"""The stacked hourglass network (Newell, Yang and Deng, "Stacked Hourglass Networks", ECCV 2016), made to be unrolled.

It differs from the paper in GroupNorm for BatchNorm, whose running statistics would count a training step again when
the adjoint recomputes it, and in smooth units: with ReLU and max-pooling the loss after training is a jagged function
of the training images, and no derivative tells where it goes.

PyTorch's GroupNorm, SiLU and convolution fall into many slow pieces when they are differentiated twice. `Unit` is the
three in a row with the same derivatives, written out by hand; it can be differentiated twice, not three times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Units = Literal["smooth", "relu"]
aten = torch.ops.aten


@dataclass(frozen=True)
class Preset:
    """Size of a stacked hourglass.

    Attributes:
        stacks: Hourglasses one after the other, each with a prediction of its own.
        depth: Halvings of resolution within an hourglass.
        features: Channels of the feature maps.
        bottleneck: Channels within a residual block.
        stride: Pixels of the image along an edge to one of the feature maps, 2 or 4.
        groups: Groups of channels that GroupNorm normalizes together.
    """

    stacks: int
    depth: int
    features: int
    bottleneck: int
    stride: int
    groups: int = 8

    @property
    def smallest(self) -> int:
        """Pixels along an edge of the smallest image, of which the lowest feature map sees a single pixel."""
        return self.stride * 2**self.depth

    def check(self, shape: Sequence[int]) -> None:
        """Make sure that images can be halved as often as the network does.

        Raises:
            ValueError: They cannot.
        """
        if any(edge % self.smallest for edge in shape[-2:]):
            raise ValueError(
                f"this hourglass needs images whose sides are multiples of {self.smallest} pixels, not {tuple(shape)}"
            )


# "small" is for CPUs; "large" are the sizes of Newell et al. for two stacks.
PRESETS = {
    "small": Preset(stacks=1, depth=3, features=32, bottleneck=32, stride=2),
    "large": Preset(stacks=2, depth=4, features=256, bottleneck=128, stride=4),
}


class StackedHourglass(nn.Module):
    """Images to maps of `outputs` channels, one set of maps from each stack.

    Args:
        preset: Sizes.
        inputs: Channels of the images.
        outputs: Channels of the predicted maps.
        units: "smooth" is SiLU with average pooling, "relu" is ReLU with max-pooling.
    """

    def __init__(self, preset: Preset, inputs: int = 1, outputs: int = 3, units: Units = "smooth") -> None:
        super().__init__()
        if preset.stride not in (2, 4):
            raise ValueError(f"an hourglass's stride is 2 or 4, not {preset.stride}")
        if units not in ("smooth", "relu"):
            raise ValueError(f"units are 'smooth' or 'relu', not {units!r}")
        self.preset = preset
        f = preset.features
        self.stem = nn.Sequential(
            nn.Conv2d(inputs, f, 7, stride=2, padding=3),
            _pooling(units) if preset.stride == 4 else nn.Identity(),
            Residual(preset, units),
        )
        self.hourglasses = nn.ModuleList(Hourglass(preset, preset.depth, units) for _ in range(preset.stacks))
        self.features = nn.ModuleList(
            nn.Sequential(Residual(preset, units), Unit(f, f, 1, preset.groups, units)) for _ in range(preset.stacks)
        )
        self.predictions = nn.ModuleList(Unit(f, outputs, 1, preset.groups, units) for _ in range(preset.stacks))
        self.merge_features = nn.ModuleList(nn.Conv2d(f, f, 1) for _ in range(preset.stacks - 1))
        self.merge_predictions = nn.ModuleList(nn.Conv2d(outputs, f, 1) for _ in range(preset.stacks - 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Predictions of every stack, each (B, outputs, H, W), for (B, inputs, H, W) images.

        Raises:
            ValueError: H or W is no multiple of the network's `smallest`.
        """
        self.preset.check(images.shape)
        x = self.stem(images.contiguous())  # `_Unit` on a GPU takes no other layout, and photos may have another
        maps = []
        for i, (hourglass, features) in enumerate(zip(self.hourglasses, self.features, strict=True)):
            y = features(hourglass(x))
            prediction = self.predictions[i](y)
            maps.append(F.interpolate(prediction, scale_factor=self.preset.stride, mode="bilinear"))
            if i + 1 < self.preset.stacks:
                x = x + self.merge_features[i](y) + self.merge_predictions[i](prediction)
        return maps


class Hourglass(nn.Module):
    """One hourglass (figure 3 of the paper): to the lowest resolution and up again, with a skip at each."""

    def __init__(self, preset: Preset, depth: int, units: Units) -> None:
        super().__init__()
        self.skip = Residual(preset, units)
        inner = Hourglass(preset, depth - 1, units) if depth > 1 else Residual(preset, units)
        self.low = nn.Sequential(_pooling(units), Residual(preset, units), inner, Residual(preset, units))

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) to the same shape."""
        return self.skip(x) + F.interpolate(self.low(x), scale_factor=2, mode="nearest")


class Residual(nn.Module):
    """Pre-activation bottleneck block (figure 4, left): 1x1, 3x3 and 1x1 convolutions, added to what came in."""

    def __init__(self, preset: Preset, units: Units) -> None:
        super().__init__()
        outer, inner, groups = preset.features, preset.bottleneck, preset.groups
        self.change = nn.Sequential(
            Unit(outer, inner, 1, groups, units),
            Unit(inner, inner, 3, groups, units),
            Unit(inner, outer, 1, groups, units),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) to the same shape."""
        return x + self.change(x)


class Unit(nn.Module):
    """GroupNorm, SiLU or ReLU, and a convolution that keeps the size, differentiable twice at about their own price."""

    def __init__(self, inputs: int, outputs: int, size: int, groups: int, units: Units) -> None:
        super().__init__()
        self.smooth = units == "smooth"
        self.norm = nn.GroupNorm(groups, inputs)
        self.convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        norm, convolution = self.norm, self.convolution
        if torch._C._are_functorch_transforms_active():
            # vmap knows PyTorch's own layers only, and GroupNorm in one memory layout; one derivative will do.
            return convolution((F.silu if self.smooth else F.relu)(norm(x.contiguous())))
        weights = norm.weight, norm.bias, convolution.weight, convolution.bias
        return _Unit.apply(x, *weights, norm.num_groups, norm.eps, self.smooth)


def _pooling(units: Units) -> nn.Module:
    return nn.AvgPool2d(2) if units == "smooth" else nn.MaxPool2d(2)


# In what follows n = (x - mean) rstd over each group, z = wn n + bn, a = silu(z), y = conv(a) with w and b. gx is the
# gradient of the loss with respect to x, and so on; the second derivative starts from vx, what multiplies gx.


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, wn: Tensor, bn: Tensor, w: Tensor, b: Tensor, groups: int, eps: float, smooth: bool
    ) -> Tensor:
        z, mean, rstd = aten.native_group_norm(x, wn, bn, *x.shape[:2], x[0, 0].numel(), groups, eps)
        a = aten.silu(z) if smooth else aten.relu(z)
        ctx.save_for_backward(bn, x, mean, rstd, z, a, wn, w)
        ctx.smooth = smooth
        return _convolve(a, w, b)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # there will be a second derivative
            return *_UnitBackward.apply(gy, *ctx.saved_tensors, ctx.smooth), None, None, None
        *gradients, _, _ = _unit_backward(gy, *ctx.saved_tensors[1:], smooth=ctx.smooth)
        return *gradients, None, None, None


class _UnitBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gy: Tensor, bn: Tensor, *saved: Any) -> tuple[Tensor, ...]:
        *gradients, ga, gz = _unit_backward(gy, *saved[:-1], smooth=saved[-1])
        ctx.save_for_backward(gy, *saved[:-1], ga, gz)
        ctx.smooth = saved[-1]
        return tuple(gradients)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, vx: Tensor, vwn: Tensor, vbn: Tensor, vw: Tensor, vb: Tensor) -> tuple[Tensor | None, ...]:
        gy, x, mean, rstd, z, a, wn, w, ga, gz = ctx.saved_tensors
        # Backwards through `_unit_backward`: GroupNorm, activation, convolution (bilinear) ...
        vz, gx, gwn = _group_norm_backward_backward(vx, vwn, vbn, gz, x, mean, rstd, wn)
        va = _activation_backward(vz, z, ctx.smooth)
        vy = _convolve(va, w, vb).add_(_convolve(a, vw, None))
        through_a, gw, _ = _convolution_backward(gy, va, vw, bias=False)
        # ... and on through what it took from the forward pass, z and a.
        through_z = _activation_backward(through_a, z, ctx.smooth)
        if ctx.smooth:  # silu'' = s (1 - s) (2 + z - 2 z s) with s = sigmoid(z); ReLU has none
            s = z.sigmoid()
            curvature = (z + 2).addcmul_(z, s, value=-2).mul_(s).mul_(s.neg_().add_(1))
            through_z.add_(curvature.mul_(ga).mul_(vz))
        through_x, through_wn, gbn = _group_norm_backward(through_z, x, mean, rstd, wn)
        return vy, gbn, gx.add_(through_x), None, None, None, None, gwn.add_(through_wn), gw, None


def _unit_backward(
    gy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, z: Tensor, a: Tensor, wn: Tensor, w: Tensor, *, smooth: bool
) -> tuple[Tensor, ...]:
    """Gradients with respect to x, wn, bn, w, b, and on the way a and z."""
    ga, gw, gb = _convolution_backward(gy, a, w)
    gz = _activation_backward(ga, z, smooth)
    gx, gwn, gbn = _group_norm_backward(gz, x, mean, rstd, wn)
    return gx, gwn, gbn, gw, gb, ga, gz


def _convolve(a: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return aten.convolution(a, w, b, [1, 1], [w.shape[-1] // 2] * 2, [1, 1], False, [0, 0], 1)


def _convolution_backward(gy: Tensor, a: Tensor, w: Tensor, bias: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to a, w and the bias; that of a needs only w, that of w only a."""
    padding = [w.shape[-1] // 2] * 2
    mask = [True, True, bias]
    return aten.convolution_backward(gy, a, w, [len(w)], [1, 1], padding, [1, 1], False, [0, 0], 1, mask)


def _activation_backward(ga: Tensor, z: Tensor, smooth: bool) -> Tensor:
    return aten.silu_backward(ga, z) if smooth else aten.threshold_backward(ga, z, 0)


def _group_norm_backward(
    gz: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, wn: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = *x.shape[:2], x[0, 0].numel(), mean.shape[1]
    return aten.native_group_norm_backward(gz.contiguous(), x.contiguous(), mean, rstd, wn, *sizes, [True, True, True])


def _group_norm_backward_backward(
    vx: Tensor, vwn: Tensor, vbn: Tensor, gz: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, wn: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From what multiplies gx, gwn and gbn to what multiplies gz, and to gradients with respect to x and wn.

    With P f = rstd (f - mean f - n mean(f n)), means over a group of m elements, which is symmetric and also dn/dx:
    gx = P(wn gz), gwn = sum gz n, gbn = sum gz. And d rstd/dx = -rstd^2 n / m. Everything is therefore a combination of
    vx, gz and x, with coefficients that follow from a few sums over the pixels of a channel.
    """
    shape, (samples, groups) = x.shape, mean.shape
    v, g, x = (t.reshape(samples, groups, shape[1] // groups, -1) for t in (vx, gz, x))
    w, vwn, vbn = (t.view(groups, -1) for t in (wn, vwn, vbn))
    mean, r = mean[..., None], rstd[..., None]
    m = v.shape[2] * v.shape[3]

    sum_v, sum_g, sum_vg = v.sum(3), g.sum(3), torch.linalg.vecdot(v, g)
    sum_vn = torch.linalg.vecdot(v, x).sub_(mean * sum_v).mul_(r)
    sum_gn = torch.linalg.vecdot(g, x).sub_(mean * sum_g).mul_(r)
    # Group means of v, v n, and of f, f n and f v for f = wn gz.
    sums = torch.stack([sum_v, sum_vn, w * sum_g, w * sum_gn, w * sum_vg])
    mean_v, mean_vn, mean_f, mean_fn, mean_fv = sums.sum(3, keepdim=True).div_(m)

    # wn P v + vwn n + vbn
    rw = r * w
    of_x = r * (vwn - rw * mean_vn)
    vz = (v * rw[..., None]).addcmul_(x, of_x[..., None]).add_((vbn - rw * mean_v - mean * of_x)[..., None])
    # sum gz P v
    gwn = (sum_vg - mean_v * sum_g - mean_vn * sum_gn).mul_(r).sum(0)
    # P q - rstd n <v, P f> / m, where q, the gradient with respect to n, is vwn gz - rstd (mean_fn v + mean_vn f)
    q_v, q_g = -r * mean_fn, vwn - rw * mean_vn
    sums = torch.stack([q_v * sum_v + q_g * sum_g, q_v * sum_vn + q_g * sum_gn])
    mean_q, mean_qn = sums.sum(3, keepdim=True).div_(m)
    mean_vpf = r * (mean_fv - mean_v * mean_f - mean_vn * mean_fn)
    of_x = -r * r * (mean_qn + mean_vpf)
    gx = (v * (r * q_v)[..., None]).addcmul_(g, (r * q_g)[..., None]).addcmul_(x, of_x[..., None])
    gx.sub_((r * mean_q + mean * of_x)[..., None])
    return vz.view(shape), gx.view(shape), gwn.view(-1)
