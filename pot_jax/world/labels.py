"""What is to be seen in views, as class numbers: what a caption is to convey and a score to find.

A head is a question with a fixed set of answers: "concept", or an attribute of one concept, such as
"leaf.colour".
"""

import numpy as np

from pot_jax.errors import UserError
from pot_jax.training.data import Views
from pot_jax.world import captions


class Labels:
    """The concept and attributes of n views.

    Attributes:
      classes: {head: its answers, sorted}.
      numbers: {head: int32 [n]}, which answer; -1 where the head does not apply.
    """

    def __init__(self, views: Views):
        facts = [
            captions.attributes(int(seed), float(scale))
            for seed, scale in zip(views.seeds, views.scales)
        ]
        named = [
            {
                "concept": fact["concept"],
                **{f"{fact['concept']}.{k}": v for k, v in fact.items() if k != "concept"},
            }
            for fact in facts
        ]
        self.classes = {
            head: sorted({fact[head] for fact in named if head in fact})
            for head in sorted({head for fact in named for head in fact})
        }
        self.numbers = {head: self._of(head, named) for head in self.classes}

    def _of(self, head: str, named: list[dict[str, str]]) -> np.ndarray:
        index = {name: number for number, name in enumerate(self.classes[head])}
        return np.array([index.get(fact.get(head), -1) for fact in named], np.int32)

    def like(self, views: Views) -> dict[str, np.ndarray]:
        """Numbers of other views, {head: int32 [m]}, in these classes.

        Raises UserError where a view shows something that no view here does.
        """
        other = Labels(views)
        translated = {}
        for head, names in other.classes.items():
            unknown = set(names) - set(self.classes.get(head, ()))
            if unknown:
                raise UserError(
                    f"{head} {', '.join(sorted(unknown))} is in none of the views that the "
                    "classes were made from: make them from more views"
                )
            table = np.array([self.classes[head].index(name) for name in names] + [-1], np.int32)
            translated[head] = table[other.numbers[head]]
        return translated
