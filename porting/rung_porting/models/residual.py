"""`residual`: the convolutional network of the built-in tasks, for bursts of small grey images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to their input."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(stream, stream, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(stream)
        self.conv2 = nn.Conv2d(stream, stream, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(stream)

    def forward(self, stream: Tensor) -> Tensor:
        """Return a tensor of the shape of the input, (batch, stream, height, width)."""
        inside = functional.relu(self.norm1(self.conv1(stream)))
        return functional.relu(stream + self.norm2(self.conv2(inside)))


class Body(nn.Module):
    """Stages of residual blocks, each after an entry convolution; pooling; classifier."""

    def __init__(self, channels: int, streams: tuple[int, ...], blocks: int, classes: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = channels
        for index, stream in enumerate(streams):
            entry = nn.Conv2d(before, stream, 3, stride=2 if index else 1, padding=1, bias=False)
            stages += [entry, nn.BatchNorm2d(stream), nn.ReLU(), *(Block(stream) for _ in range(blocks))]
            before = stream
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (batch, classes) for images (batch, channels, side, side)."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.stages(image))))
        return logits


class Residual(nn.Module):
    """Looks at the frames of a burst one by one, enlarged, and answers the mean of what it makes of them.

    An answer costs as much as the frames it looks at; training looks at one frame of each sample, another one every
    time, which costs that much less. (Mean over sparsely sampled frames: Wang et al., "Temporal Segment Networks",
    2016.)

    Args:
        shape: (frames, height, width) of a request.
        classes: number of logits.
        streams: channels of each stage; each stage after the first halves the image.
        blocks: residual blocks in each stage.
        side: pixels along a side of what the convolutions see.
        frames: how many frames of a request an answer looks at; all of them when None.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        streams: tuple[int, ...] = (32, 64),
        blocks: int = 3,
        side: int = 16,
        frames: int | None = None,
    ) -> None:
        super().__init__()
        if frames is not None and not 1 <= frames <= shape[0]:
            raise ValueError(f"frames must be from 1 to {shape[0]}, as many as the input has, not {frames}")
        self.classes = classes
        self.height, self.width = shape[1:]
        self.side = side
        self.frames = frames or shape[0]
        self.body = Body(1, tuple(streams), blocks, classes)

    def forward(self, burst: Tensor) -> Tensor:
        """Return logits (batch, classes) for bursts (batch, frames, height, width) with values from 0 to 1."""
        if self.training:
            frame = torch.randint(burst.shape[1], (burst.shape[0],))
            return self._answer(burst[torch.arange(burst.shape[0]), frame].unsqueeze(1))
        frames = burst[:, : self.frames].reshape(-1, 1, self.height, self.width)
        return self._answer(frames).reshape(-1, self.frames, self.classes).mean(dim=1)

    def _answer(self, frames: Tensor) -> Tensor:
        size = (self.side, self.side)
        answer: Tensor = self.body(functional.interpolate(frames, size=size, mode="bilinear", align_corners=False))
        return answer
