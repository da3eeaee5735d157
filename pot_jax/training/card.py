"""The model card: what a trained model is, what made it, and how it scored."""

import json
from pathlib import Path
from typing import Any

import jax

from pot_jax.checks import to_dict
from pot_jax.training.settings import TrainSettings
from pot_jax.weights.model import COMPONENTS, Model
from pot_jax.world import CONCEPTS

_CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# {s.name}

A small text-to-image model in Stable Diffusion's shape ({data.size} x {data.size} pixels), trained
from scratch by pot_jax on its own procedural world. The demo, tests and ablations run on it.

**Use.** Zooms through its world on a laptop ({concepts}), and
tests of zoom algorithms without a download. It knows nothing else: words outside the captions'
grammar mean little to it. It has seen no photographs, no people, and no text from elsewhere.

**Parts.** {parts}. Weights are float16 safetensors in diffusers' layout;
`diffusers.StableDiffusionPipeline.from_pretrained(folder)` loads it unchanged.
Prompts have up to {s.tokenizer.length} tokens, from a vocabulary of {vocabulary} of its own.

**Data.** {data.trained_on} rendered views, each of a different world, with scales spread evenly
from {first} (scale 0) to {last} (scale {data.deepest:g}), and {data.phrasings} captions each from a
grammar; {data.held_out} views held out. `pot_jax/world` makes all of it; there is no outside data.

**Recipe.** `pot-jax train --config=configs/train/{s.name}.py --workdir=runs/{s.name}`, seed
{s.seed}.
{steps}
v-prediction, zero terminal SNR, trailing timesteps; captions dropped in
{s.diffusion.caption_dropout:.0%} of the examples, for guidance. The exact settings are below.

**Hardware and time.** {hardware}. {minutes}

**Scores.** {scores}

**Licence.** Apache-2.0, weights and code.

## Settings

```json
{settings}
```
"""

_PHASES = {
    "autoencoder": "Autoencoder",
    "tiny_vae": "Tiny autoencoder, of the other",
    "text_encoder": "Text encoder on labels",
    "diffusion": "Text encoder and UNet",
}


def write_card(folder: Path, model: Model, settings: TrainSettings, scores: dict[str, Any]) -> None:
    """Writes `README.md` into the folder of the exported `model`.

    `scores` are what the training of `settings` has measured so far: "minutes" by phase,
    "<phase>_steps", "hardware", and any other number by name.
    """
    parts = []
    for name in (name for name in COMPONENTS if name in model.params):
        count = sum(x.size for x in jax.tree.leaves(model.params[name]))
        parts.append(f"{name.replace('_', ' ')} {count / 1e6:.2f} M parameters")
    steps = []
    for phase, how in settings.phases().items():
        taken = scores.get(f"{phase}_steps")
        steps.append(
            f"{_PHASES[phase]}: {how.optimizer.capitalize()}, learning rate {how.learning_rate:g} "
            f"with cosine decay, batch size {how.batch_size}, EMA decay {how.ema_decay:g}, "
            f"{'not finished' if taken is None else f'{taken} steps'}."
        )
    known = ("minutes", "hardware", *(f"{phase}_steps" for phase in _PHASES))
    figures = {name: value for name, value in scores.items() if name not in known}
    text = _CARD.format(
        s=settings,
        data=settings.data,
        concepts=", ".join(CONCEPTS),
        parts=", ".join(parts),
        vocabulary=len(model.tokenizer),
        first=CONCEPTS[0],
        last=CONCEPTS[-1],
        steps="\n".join(steps),
        hardware=scores.get("hardware", "Still training"),
        minutes=_listed({f"{k} (minutes)": v for k, v in scores.get("minutes", {}).items()}),
        scores=_listed(figures) or "none yet.",
        # A path of this machine means nothing on another.
        settings=json.dumps({**to_dict(settings), "renders": ""}, indent=2),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _listed(values: dict[str, float]) -> str:
    shown = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items()]
    return "; ".join(shown) + "." if shown else ""
