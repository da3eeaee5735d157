"""What views show, as class numbers: targets for the text encoder, and answers for a score.

A head is a question with a fixed set of answers: "concept", or an attribute of one concept, such as
"leaf.colour".
"""

import numpy as np

from pot_jax.errors import UserError
from pot_jax.world import captions
from pot_jax.world.frames import Views


def answers(views: Views) -> list[dict[str, str]]:
    """Returns what each of n views shows, as {head: answer}."""
    return [captions.attributes(*view) for view in views.pairs()]


class Labels:
    """The concept and attributes of n views.

    Attributes:
      classes: {head: its answers, sorted}.
      numbers: {head: int32 [n]}, which answer; -1 where the head does not apply.
    """

    def __init__(self, views: Views | None = None, named: list[dict[str, str]] | None = None):
        """Makes labels of `views`, or of their `answers` where these are known."""
        named = answers(views) if named is None else named
        self.classes = {
            head: sorted({a[head] for a in named if head in a})
            for head in sorted({head for a in named for head in a})
        }
        self.numbers = {
            head: np.array([names.index(a[head]) if head in a else -1 for a in named], np.int32)
            for head, names in self.classes.items()
        }

    def like(self, views: Views) -> dict[str, np.ndarray]:
        """Returns the numbers of other views, {head: int32 [m]}, in these classes.

        Raises:
          UserError: a view shows something that no view here does.
        """
        other = Labels(views)
        translated = {}
        for head, names in other.classes.items():
            ours = self.classes.get(head, [])
            if unknown := sorted(set(names) - set(ours)):
                raise UserError(
                    f"{head}: none of the views that the classes were made from shows "
                    f"{', '.join(unknown)}; make them from more views"
                )
            table = np.array([*map(ours.index, names), -1], np.int32)
            translated[head] = table[other.numbers[head]]
        return translated
