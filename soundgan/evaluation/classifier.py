"""The small classifiers in whose embeddings sounds are compared, and how they are trained.

A classifier's last hidden layer keeps what tells the classes apart and little else, which makes it
a fair feature extractor for class-conditional sounds (Donahue, McAuley & Puckette 2019 used theirs
so). They are trained here, on the real training clips: no network is downloaded. Three seeds,
because with a few hundred clips the figures of one alone vary with its seed.

Shapes: N sounds, M mel bands, T frames, D numbers of an embedding, K classes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from soundgan import packages
from soundgan.evaluation.features import SoundSet, statistics

SEEDS = (0, 1, 2)  # one classifier each
CHANNELS = (16, 32, 64, 128)
EMBEDDING = 64  # D
DROPOUT = 0.3
STEPS = 600
BATCH = 32
RATE = 3e-3  # highest learning rate of the one-cycle schedule
WEIGHT_DECAY = 0.05
GAIN = 0.7  # nepers (6 dB)
MASK = 0.25  # of the bands, and of the frames, at most
GROUPS = 8  # pseudo-classes where there is only one class


class Classifier(nn.Module):
    """A small classifier of log-mels; `embed` is its last hidden layer `(N, D)`."""

    def __init__(self, classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)  # (M, 1), of the real training clips
        self.register_buffer("std", std)
        channels = (1, *CHANNELS)
        stages: list[nn.Module] = []
        for c_in, c_out in pairwise(channels):
            conv = nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False)
            stages += [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
        self.stages = nn.Sequential(*stages)
        self.hidden = nn.Linear(2 * channels[-1], EMBEDDING)
        self.drop = nn.Dropout(DROPOUT)
        self.classify = nn.Linear(EMBEDDING, classes)

    def embed(self, x: Tensor) -> Tensor:
        """Log-mels `(N, 1, M, T)` -> `(N, D)`."""
        x = self.stages((x - self.mean) / self.std).flatten(2)  # (N, C, places)
        x = torch.cat([x.mean(2), x.amax(2)], dim=1)  # how much of it, and whether at all
        return self.hidden(self.drop(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(x))  # (N, K)


def train_classifier(x: Tensor, labels: Tensor, classes: int, seed: int) -> Classifier:
    """A classifier of log-mels `x (N, 1, M, T)`, trained from `seed`; the random state is kept."""
    cuda = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        mean, std = x.mean((0, 3))[0, :, None], x.std((0, 3))[0, :, None] + 1e-3
        classifier = Classifier(classes, mean, std)
        classifier.to(x.device)
        optimiser = torch.optim.AdamW(classifier.parameters(), weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
        for _ in range(STEPS):
            rows = torch.randint(len(x), (BATCH,), device=x.device)
            logits = classifier(augment(x[rows]))
            loss = cross_entropy(logits, labels[rows], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return classifier.eval().requires_grad_(False)


def train_classifiers(sounds: SoundSet, classes: int, device: torch.device) -> list[Classifier]:
    """One classifier a seed, on the CPU; where there is one class, of groups of similar clips."""
    labels = sounds.labels
    if classes < 2:
        labels = similar(sounds.x)
        classes = int(labels.max()) + 1
    x, labels = sounds.x.to(device), labels.to(device)
    return [train_classifier(x, labels, classes, seed).cpu() for seed in SEEDS]


def similar(x: Tensor) -> Tensor:
    """Pseudo-labels `(N,)` of log-mels `(N, 1, M, T)`: the number of the group of similar ones
    that each is in, as in DeepCluster (Caron et al. 2018)."""
    cluster = packages.needed("sklearn.cluster", "Scoring a run without classes")
    points = statistics(x)
    groups = min(GROUPS, len(points.unique(dim=0)))  # fewer where clips are copies of each other
    if groups < 2:
        return torch.zeros(len(x), dtype=torch.long)
    points = (points - points.mean(0)) / (points.std(0) + 1e-3)
    groups = cluster.KMeans(groups, n_init=4, random_state=0).fit_predict(points.numpy())
    return torch.from_numpy(groups).long()


def share_right(classifier: Classifier, sounds: SoundSet) -> float:
    """Share of sounds that are classified as their label says."""
    return float((classifier(sounds.x).argmax(1) == sounds.labels).float().mean())


def augment(x: Tensor) -> Tensor:
    """Log-mels `(B, 1, M, T)` moved in time, louder or softer, and masked in part (Park 2019)."""
    *_, bands, frames = x.shape
    batch = len(x)
    turn = torch.randint(frames, (batch, 1), device=x.device)
    at = torch.arange(frames, device=x.device) + turn  # (B, T)
    x = x.gather(3, (at % frames)[:, None, None].expand_as(x))
    x = x + (torch.rand(batch, 1, 1, 1, device=x.device) * 2 - 1) * GAIN
    floor = x.mean((1, 2, 3), keepdim=True)
    for size, dim in ((bands, 2), (frames, 3)):
        shape = [batch, 1, 1, 1]
        start = torch.rand(shape, device=x.device) * size
        width = torch.rand(shape, device=x.device) * size * MASK
        along = [size if d == dim else 1 for d in range(4)]
        place = torch.arange(size, device=x.device).view(along)
        x = torch.where((place >= start) & (place < start + width), floor, x)
    return x
