"""One place for what an optimizer looks like: its order, its colour and its line, the same in every figure."""

from __future__ import annotations

from collections.abc import Collection

# Okabe and Ito's colours, told apart by everybody, and some of Tol's. A method's kin has its colour, and another line.
STYLES = {
    "hybrid_gradient": ("#0072B2", "-"),
    "hybrid_gradient_paper": ("#0072B2", "--"),
    "credit_gradient": ("#D55E00", "-"),
    "score_influence": ("#56B4E9", "-"),
    "combined": ("#000000", "-"),
    "autosimulate": ("#56B4E9", "--"),
    "basic_random_search": ("#009E73", "-"),
    "basic_random_search_paper": ("#009E73", "--"),
    "augmented_random_search": ("#009E73", ":"),
    "reinforce": ("#882255", "-"),
    "spsa": ("#882255", "--"),
    "openai_es": ("#332288", "-"),
    "guided_es": ("#332288", "--"),
    "snes": ("#332288", ":"),
    "noise_reuse_es": ("#117733", "-"),
    "persistent_es": ("#117733", "--"),
    "evolution": ("#E69F00", "-"),
    "diagonal_cma": ("#E69F00", "--"),
    "cmaes_lra": ("#E69F00", ":"),
    "tbpsa": ("#E69F00", "-."),
    "one_plus_one": ("#AA4499", "-"),
    "de": ("#AA4499", "--"),
    "pso": ("#AA4499", ":"),
    "optuna": ("#DC267F", "-"),
    "shape_evolution": ("#999933", "-"),
    "random_search": ("#CC79A7", "-"),
    "quasi_random_search": ("#CC79A7", "--"),
    "fixed": ("#555555", "-"),
}
OTHERS = ("#8C564B", "#7F3FBF", "#B8A900", "#17A2A2", "#A3B18A")
VARIANTS = ((0, (6, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))

Line = str | tuple[float, tuple[float, ...]]


def ordered(labels: Collection[str]) -> list[str]:
    """Labels of optimizers: those of the table in its order, each before its variants, then all others by name."""
    names = list(STYLES)

    def place(label: str) -> tuple[int, bool, str]:
        own = _id(label)
        return (len(names) if own is None else names.index(own), label != own, label)

    return sorted(set(labels), key=place)


def styles(labels: Collection[str]) -> dict[str, tuple[str, Line]]:
    """Colour and line of each label.

    An optimizer's own label always looks the same; its variants (`<id>-<anything>`) have its colour with other lines,
    and what is not in the table has colours that nothing in it has, both in the order of their names.
    """
    found: dict[str, tuple[str, Line]] = {}
    variants: dict[str, int] = {}
    others = 0
    for label in ordered(labels):
        own = _id(label)
        if own is None:
            line: Line = "-" if others < len(OTHERS) else VARIANTS[others // len(OTHERS) % len(VARIANTS)]
            found[label] = OTHERS[others % len(OTHERS)], line
            others += 1
        elif label == own:
            found[label] = STYLES[own]
        else:
            count = variants.get(own, 0)
            found[label] = STYLES[own][0], VARIANTS[count % len(VARIANTS)]
            variants[own] = count + 1
    return found


def _id(label: str) -> str | None:
    """The entry of the table that a label is, or is a variant of."""
    matches = [name for name in STYLES if label == name or label.startswith((f"{name}-", f"{name} "))]
    return max(matches, key=len, default=None)
