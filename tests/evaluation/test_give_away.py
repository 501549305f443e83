"""Views of sounds: each leaves out what it says, and tells by it what gives sounds away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from soundgan.evaluation import give_away
from soundgan.evaluation.give_away import VIEWS, areas, compared
from soundgan.evaluation.sides import Sides
from soundgan.evaluation.two_sample import Area


def sounds(count: int, seed: int, frames: int = 48) -> Tensor:
    """Log-mels of noise, each at a level of its own."""
    draw = torch.Generator().manual_seed(seed)
    x = 0.5 * torch.randn(count, 1, 64, frames, generator=draw)
    return x + torch.randn(count, 1, 1, 1, generator=draw) - 5


def sides(frames: int = 48) -> Sides:
    return Sides(sounds(80, 0, frames), torch.arange(80), sounds(40, 1, frames), 40)


def shown(name: str, x: Tensor) -> Tensor:
    return VIEWS[name].show(x)


def test_views_show_what_they_say() -> None:
    x = sounds(3, 2)
    assert shown("whole", x) is x
    coarse, fine = shown("coarse", x), shown("fine", x)
    assert coarse.shape == (3, 1, 16, 12)
    assert coarse[1, 0, 2, 3] == pytest.approx(float(x[1, 0, 8:12, 12:16].mean()), abs=1e-5)
    assert torch.allclose(fine + coarse.repeat_interleave(4, 2).repeat_interleave(4, 3), x)
    assert shown("coarser", x).shape == (3, 1, 8, 6)
    assert torch.allclose(shown("slow", x), x.unflatten(3, (-1, 4)).mean(4), atol=1e-5)
    assert torch.allclose(shown("smooth", x), x.unflatten(2, (-1, 4)).mean(3), atol=1e-5)
    parts = [shown(f"band{k}", x) for k in (1, 2, 3, 4)]
    assert torch.equal(torch.cat(parts, 2), x)
    mixed = shown("shuffled", x)
    assert torch.allclose(mixed.sum(2).sort(-1).values, x.sum(2).sort(-1).values)
    order = [
        [(x[n] == mixed[n, :, :, k : k + 1]).all(1).int().argmax() for k in range(48)]
        for n in (0, 1)
    ]
    assert sorted(map(int, order[0])) == list(range(48))
    assert order[0] != order[1]  # of each sound another
    assert torch.equal(shown("shuffled", x), mixed)
    assert shown("fine", sounds(3, 2, 46)).shape == (3, 1, 64, 44)


def test_words_are_hertz_and_milliseconds() -> None:
    words = {name: view.words() for name, view in VIEWS.items()}
    assert words["coarse"] == "means over 93 ms by 4 bands"  # 4 x 512 samples at 22 050 Hz
    assert words["coarser"] == "means over 186 ms by 8 bands"
    assert [words[f"band{k}"] for k in (1, 2, 3, 4)] == [
        *("only 20 to 780 Hz", "only 780 to 1700 Hz"),
        *("only 1700 to 3700 Hz", "only 3700 to 8000 Hz"),
    ]


def told(change: Tensor) -> set[str]:
    """In which views judges tell sounds that differ from real ones by `change (1, 1, M, T)`."""
    found = areas(sides(), sounds(40, 3) + change)
    assert list(found) == list(VIEWS)
    return {name for name, area in found.items() if area.mean > 0.85}


FRAME, BAND = torch.arange(48).view(1, 1, 1, 48), torch.arange(64).view(1, 1, 64, 1)


@pytest.mark.parametrize(
    ("change", "seen", "unseen"),
    [
        # A grid in time is fine, and gone in means over its period.
        (
            0.3 * (FRAME % 4 == 0) * torch.ones(1, 1, 64, 1),
            {"whole", "fine", "smooth", "band1", "band4"},
            {"coarse", "coarser", "slow"},
        ),
        # One in some bands only is seen there.
        (
            0.3 * (FRAME % 4 == 0) * (BAND < 16),
            {"whole", "fine", "smooth", "band1"},
            {"coarse", "shuffled", "band2", "band3", "band4"},
        ),
        # A beat is coarse, and is nothing of what means leave out.
        (
            0.6 * ((FRAME // 8) % 2) * torch.ones(1, 1, 64, 1),
            {"whole", "coarse", "slow", "smooth"},
            {"fine"},
        ),
        # A step of the spectrum is there in any order.
        (1.0 * (BAND >= 24) * torch.ones(1, 1, 1, 48), {"whole", "shuffled", "band2"}, {"band1"}),
    ],
)
def test_the_map_says_where_it_is(change: Tensor, seen: set[str], unseen: set[str]) -> None:
    found = told(change)
    assert seen <= found
    assert not unseen & found


def test_short_sounds_have_the_views_that_they_can() -> None:
    """Three frames, the shortest there are."""
    own = sides(3)
    found = areas(own, sounds(40, 3, 3))
    assert {n for n, area in found.items() if area is None} == {"coarse", "coarser", "slow"}
    rows = compared(found, areas(own))
    assert "whole" in rows
    assert "coarse" not in rows
    assert all(
        area is None for area in areas(Sides(own.x[:9], own.sources[:9], own.unseen, 9)).values()
    )


def test_what_is_said() -> None:
    own = dict.fromkeys(VIEWS) | {"whole": Area(0.9, 0.8, 1.0), "fine": Area(0.95, 0.9, 1.0)}
    rows = compared(own, own | {"whole": Area(0.5, 0.4, 0.6), "fine": None})
    assert rows == {
        "whole": {
            **{"shown": "everything", "generated": 0.9, "generated_low": 0.8},
            **{"generated_high": 1.0, "real": 0.5, "real_low": 0.4, "real_high": 0.6},
        }
    }
    assert [line.split("  ")[0] for line in give_away.table(rows).split("\n")] == [
        *("what judges are shown", "everything")
    ]
    assert "0.90 (0.80 to 1.00)  0.50 (0.40 to 0.60)" in give_away.table(rows)
