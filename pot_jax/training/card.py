"""The model card: what a trained model is, what made it, and how it scored."""

import json
from pathlib import Path
from typing import Any

import jax

from pot_jax.training.settings import TrainSettings, as_json
from pot_jax.weights.model import COMPONENTS, Model
from pot_jax.world import CONCEPTS

_CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# {name}

A small text-to-image model in Stable Diffusion's shape ({size} x {size} pixels), trained from
nothing by pot_jax on its own procedural world. It is what its demo, tests and ablations run on.

**What it is for.** Zooms through the world it knows, {concepts}, on a laptop;
tests of zoom algorithms without a download. It knows nothing else: words outside the captions'
grammar mean little to it. It has seen no photograph, no picture of a person and no text of others.

**Parts.** {parts}. Weights are float16 safetensors in diffusers' layout;
`diffusers.StableDiffusionPipeline.from_pretrained(folder)` loads it as it is.
Prompts of up to {length} tokens of its own vocabulary of {vocabulary}.

**Data.** {trained_on} rendered views, each of a world of its own, scales spread evenly from {first}
(scale 0) to {last} (scale {deepest:g}), {phrasings} captions each from a grammar; {held_out} views
held out. All of it is made by `pot_jax/training/worlds` and `captions.py`; no outside data.

**Recipe.** `pot-jax train --config=configs/train/{name}.py --workdir=runs/{name}`, seed {seed}.
{steps}
v-prediction, zero terminal SNR, trailing timesteps; captions dropped in {dropout:.0%} of the
examples for guidance. The exact settings are at the end of this card.

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
    "text_encoder": "Text encoder on labels",
    "diffusion": "Text encoder and UNet",
}


def write_card(folder: Path, model: Model, settings: TrainSettings, scores: dict[str, Any]) -> None:
    """Write `README.md` into an exported model folder.

    Args:
      folder: the exported model.
      model: what was exported.
      settings: of the training.
      scores: what the run has measured so far: "minutes" by phase, "<phase>_steps", "hardware", and
        any other number by name.
    """
    parts = []
    for name in COMPONENTS:
        count = sum(x.size for x in jax.tree.leaves(model.params[name]))
        parts.append(f"{name.replace('_', ' ')} {count / 1e6:.2f} M parameters")
    steps = [
        f"{_PHASES[phase]}: {descent.optimizer.capitalize()}, cosine decay from "
        f"{descent.learning_rate:g}, batches of {descent.batch}, running mean of the weights "
        f"{descent.average:g}, {scores.get(f'{phase}_steps', 'so far unfinished')} steps."
        for phase, descent in settings.descents().items()
    ]
    known = ("minutes", "hardware", *(f"{phase}_steps" for phase in _PHASES))
    figures = {name: value for name, value in scores.items() if name not in known}
    text = _CARD.format(
        name=settings.name,
        size=settings.data.size,
        concepts=", ".join(CONCEPTS),
        parts=", ".join(parts),
        length=settings.tokenizer.length,
        vocabulary=len(model.tokenizer),
        trained_on=settings.data.pictures - settings.data.held_out,
        first=CONCEPTS[0],
        last=CONCEPTS[-1],
        deepest=settings.data.deepest,
        phrasings=settings.data.phrasings,
        held_out=settings.data.held_out,
        seed=settings.seed,
        steps="\n".join(steps),
        dropout=settings.diffusion.caption_dropout,
        hardware=scores.get("hardware", "Training is still under way"),
        minutes=_listed({f"{k} (minutes)": v for k, v in scores.get("minutes", {}).items()}),
        scores=_listed(figures) or "none yet.",
        # Where the renders lay is that machine's own affair.
        settings=json.dumps({**as_json(settings), "renders": ""}, indent=2),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _listed(values: dict[str, float]) -> str:
    shown = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items()]
    return "; ".join(shown) + "." if shown else ""
