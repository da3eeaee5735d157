"""The classifier of the procedural world's pictures: what they show, and features to compare."""

import flax.linen as nn
import jax

_CONVOLUTIONS = ((32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 2))
_FEATURES = 224


class Heads(nn.Module):
    """Features [B, D] -> logits by head, {name: [B, k]}."""

    sizes: tuple[tuple[str, int], ...]

    @nn.compact
    def __call__(self, features: jax.Array) -> dict[str, jax.Array]:
        return {name: nn.Dense(size, name=name)(features) for name, size in self.sizes}


class Classifier(nn.Module):
    """Pictures [B, 64, 64, 3] in [-1, 1] -> features [B, 224] and logits by head, {name: [B, k]}.

    `heads` has each head's name and number of answers (`world.captions.Labels`).
    """

    heads: tuple[tuple[str, int], ...]

    @nn.compact
    def __call__(self, pictures: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        x = pictures
        for i, (channels, stride) in enumerate(_CONVOLUTIONS):
            # The names matter to Muon (training/optimizers.py), which skips `conv_in` and `heads`.
            name = f"conv_{i or 'in'}"
            x = nn.Conv(channels, (3, 3), (stride, stride), name=name)(x)
            x = nn.relu(nn.GroupNorm(8, name=f"norm_{i}")(x))
        features = nn.Dense(_FEATURES, name="features")(x.reshape(len(x), -1))
        return features, Heads(self.heads, name="heads")(nn.relu(features))
