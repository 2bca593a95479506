"""`ControlName`: controls of a run, which tell what a trained table alone contributes."""

from typing import Literal

ControlName = Literal["frozen-random", "uniform", "dense", "none"]

# By control: its definition, for help texts and cards.
CONTROLS: dict[ControlName, str] = {
    "frozen-random": "a table of random rows that is not trained, everything around it is",
    "uniform": "one row for each head, which every look-up reads",
    "dense": "a feed-forward part of as many parameters in the memory's place",
    "none": "the base alone, where all of it is trained",
}
