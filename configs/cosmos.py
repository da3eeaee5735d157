"""From a galaxy to a ladybug in sixteen levels of factor 2, with the model that ships.

    pot-jax sample --config=configs/cosmos.py --workdir=runs/cosmos      (or tools/demo)

Eight levels: --config.prompts takes any list. Measured figures are in README.md.
"""

import ml_collections

PROMPTS = (
    "a blue spiral galaxy, far away",
    "a blue spiral galaxy up close",
    "a star and its planets in a purple nebula, wide view",
    "a purple nebula with a blue planet in the middle, close",
    "a blue planet in a purple nebula, far away",
    "a blue planet up close",
    "a green island in the sea, far away",
    "a green island close, seen from above",
)


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"prompts": PROMPTS})
