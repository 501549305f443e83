"""Noise that the latent decides."""

from __future__ import annotations

import torch

from soundgan.models.noise import FIELD, FINENESS, STEP, Field, keys


def test_keys_are_whole_numbers_within_the_field_and_the_same_in_every_batch():
    z = 1.2 * torch.randn(2000, 32)
    whole = keys(z)
    assert whole.shape == (2000, 2)
    assert torch.equal(whole, whole.floor())
    for column, size in enumerate(FIELD):
        assert whole[:, column].min() >= 0
        assert whole[:, column].max() < size
        # Anywhere in it, equally often: the mean of a uniform number, to 4 standard errors.
        assert abs(whole[:, column].mean() / size - 0.5) < 4 * 12**-0.5 / 2000**0.5
    assert torch.equal(torch.cat([keys(row[None]) for row in z[:50]]), whole[:50])


def test_keys_are_the_fractions_of_the_latents_ends():
    z = torch.tensor([[(3 + 0.25) / FINENESS, 9.0, (-2 + 0.5) / FINENESS]])
    assert keys(z).tolist() == [[FIELD[0] / 4, FIELD[1] / 2]]


def test_the_noise_of_a_layer_is_its_part_of_the_field_which_begins_anew():
    field = Field()
    first = torch.tensor([[FIELD[0] - 2.0, FIELD[1] - 3.0], [5.0, 7.0]])
    noise = field(first, 0, 4, 8)
    assert noise.shape == (2, 1, 4, 8)
    torch.testing.assert_close(noise[1, 0], field.numbers[5:9, 7:15])
    torch.testing.assert_close(noise[0, 0, 2:, 3:], field.numbers[:2, :5])
    torch.testing.assert_close(noise[0, 0, :2, :3], field.numbers[-2:, -3:])
    second = field(first, 1, 4, 8)
    rows, columns = (slice(a + b, a + b + n) for a, b, n in zip((5, 7), STEP, (4, 8)))
    torch.testing.assert_close(second[1, 0], field.numbers[rows, columns])


def test_the_field_is_normal_and_the_same_everywhere():
    a, b = Field().numbers, Field().numbers
    assert torch.equal(a, b)
    assert abs(float(a.mean())) < 0.003
    assert abs(float(a.std()) - 1) < 0.003
    assert not Field().state_dict()
