"""What mkdocs does with these pages besides showing them: tables from the code, formulas, files from elsewhere.

- A line `<!-- generated: name -->` in a page is replaced by what the function `name` below makes of the code.
- Pages link as they do in the repository. Here links are bent to where the site has the same thing. A file that the
  site does not have loses its link and keeps its text.
- Formulas between dollars become MathML, which browsers draw by themselves.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from omegaconf import OmegaConf

import hgenv
from hgenv.benchmarks.command import choices
from hgenv.benchmarks.config import compose
from hgenv.decision import Block, DecisionSpace
from hgenv.optimizers import REGISTRY
from hgenv.registration import ENVIRONMENTS

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs/"
FORMULAS: list[str] = []  # of all pages, in the order in which they were met
FIRST = (
    "DataGenEnv",
    "DecisionSpace",
    "Rollout",
    "SampleGradient",
    "Ledger",
    "Budget",
    "Optimizer",
    "GradientOptimizer",
)
# Files outside docs/ that are on the site, at the same paths.
ELSEWHERE = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results/**/*.md", "benchmarks/results/**/figures/*")

# --- What mkdocs calls -----------------------------------------------------------------------------------------------


def lay_out() -> None:
    """Put all packages into one folder, as they are installed: the reference is read from there."""
    package = ROOT / "build" / "docs" / "hgenv"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        old.unlink()
    for part in [*(ROOT / "hgenv").iterdir(), ROOT / "optimizers"]:
        if part.name != "__pycache__":
            (package / part.name).symlink_to(part)


lay_out()  # mkdocstrings looks for the folder before the first event


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from elsewhere."""
    for pattern in ELSEWHERE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Tables, links, formulas."""
    own = page.file.src_uri
    known = {file.src_uri for file in files}
    home = own if own in _elsewhere(known) else DOCS + own

    def generate(found: re.Match[str]) -> str:
        words = found[1].split()
        return GENERATED[words[0]](*words[1:])

    markdown = re.sub(r"^<!-- generated: ([\w. ]+) -->$", generate, markdown, flags=re.MULTILINE)
    parts = re.split(r"(^ *```.*?^ *```$|`[^`\n]+`)", markdown, flags=re.MULTILINE | re.DOTALL)
    for i in range(0, len(parts), 2):  # what is not code
        parts[i] = re.sub(r"(!?)\[([^\]\n]*)\]\(([^)\s]+)\)", lambda m: _link(m, home, own, known), parts[i])
        if page.meta.get("formulas"):
            parts[i] = re.sub(r"\$\$(.+?)\$\$", lambda m: _formula(m[1].strip(), "block"), parts[i], flags=re.DOTALL)
            parts[i] = re.sub(r"\$([^$\n]+)\$", lambda m: _formula(m[1], "inline"), parts[i])
    return "".join(parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the formulas into the finished page."""
    return re.sub(r"FORMULA(\d+)END", lambda m: FORMULAS[int(m[1])], html)


def _formula(latex: str, display: str) -> str:
    """A word that stands for a formula, as Markdown would take a formula at the start of a line for a paragraph."""
    FORMULAS.append(convert(latex, display=display))
    return f"FORMULA{len(FORMULAS) - 1}END"


def _elsewhere(known: set[str]) -> set[str]:
    return {name for name in known if not (ROOT / DOCS / name).exists()}


def _link(found: re.Match[str], home: str, own: str, known: set[str]) -> str:
    mark, text, target = found.groups()
    path, hash_, anchor = target.partition("#")
    if "://" in target or target.startswith("mailto:") or not path:
        return found[0]
    there = posixpath.normpath(posixpath.join(posixpath.dirname(home), path))
    there = there.removeprefix(DOCS)
    if there not in known:
        # Left as it is, a link to nothing fails the build, as it should.
        return text if (ROOT / there).exists() else found[0]
    return f"{mark}[{text}]({os.path.relpath(there, posixpath.dirname(own) or '.')}{hash_}{anchor})"


# --- Tables ----------------------------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


@cache
def _environment(name: str) -> Any:
    return gymnasium.make(name, disable_env_checker=True).unwrapped


def _settings(group: str, name: str) -> dict[str, Any]:
    return dict(compose([f"{group}={name}"]).identity[group])


def environments() -> str:
    """All ids."""
    rows = []
    for name in ENVIRONMENTS:
        env = _environment(name)
        metric = env.task.metrics[0]
        said = inspect.cleandoc(type(env).__doc__).split("\n\n")[0].replace("\n", " ")
        chosen = [f"`env={key}`" for key in choices("env") if _settings("env", key)["id"] == name]
        rows.append((f"[`{name}`](#{_anchor(name)})", env.space.dimension, said, f"`{metric.name}`", ", ".join(chosen)))
    return _table(("id", "d", "what it is", "primary metric", "on the command line"), rows)


def environment_choices() -> str:
    """What env= takes."""
    rows = [(f"`env={key}`", f"`{_settings('env', key)['id']}`", said) for key, said in choices("env").items()]
    return _table(("setting", "id", "what it is"), rows)


def environment_pages() -> str:
    """For each id what its class says, with a table of the decision vector that is made here."""
    parts = []
    for name in ENVIRONMENTS:
        env = _environment(name)
        text = inspect.cleandoc(type(env).__doc__)
        table = blocks(env.space, env.generator.pathwise)
        text, count = re.subn(r"^\| index .*(?:\n\|.*)*", lambda _, t=table: t, text, flags=re.MULTILINE)
        assert count == 1, f"{name}: its docstring has no table of the decision vector"
        metrics = [(f"`{m.name}`", m.title, "less" if m.direction == "min" else "more") for m in env.task.metrics]
        text = re.sub(r"^## ", "### ", text, flags=re.MULTILINE)
        text = text.replace("### Arguments", _table(("metric", "title", "better"), metrics) + "\n\n### Arguments")
        parts.append(f"## `{name}` {{ #{_anchor(name)} }}\n\n{text}")
    return "\n\n".join(parts)


def blocks(space: DecisionSpace, pathwise: tuple[str, ...]) -> str:
    """The decision vector, block by block."""

    def numbers(values: tuple[float, ...]) -> str:
        distinct = list(dict.fromkeys(f"{v:.3g}" for v in values))
        return distinct[0] if len(distinct) == 1 else ", ".join(f"{v:.3g}" for v in values)

    def row(b: Block) -> tuple[Any, ...]:
        where = space.slice(b.name)
        index = str(where.start) if b.size == 1 else f"{where.start} to {where.stop - 1}"
        kind = "simplex" if b.simplex else ("pathwise" if b.name in pathwise else "")
        values = map(numbers, (b.low, b.high, b.initial))
        return f"`{b.name}`", b.size, index, b.unit, *values, kind, b.meaning

    head = ("block", "size", "index", "unit", "low", "high", "initial", "kind", "meaning")
    return _table(head, [row(b) for b in space.blocks])


def optimizers() -> str:
    """All that optimizer= takes."""
    rows = []
    for name, said in choices("optimizer").items():
        found = _settings("optimizer", name)
        estimator, rule = found.get("estimator"), found.get("rule")
        rows.append(
            (
                f"`{name}`<br>{said}",
                _cut(estimator),
                _short(estimator) if estimator else "-",
                _short(rule) if rule else "-",
                found.get("period", 1),
                "yes" if found.get("shrinkage") else "no",
            )
        )
    return _table(("id", "cut at", "estimator", "rule", "period", "shrinkage"), rows)


def optimizer_settings() -> str:
    """Every setting of every optimizer, folded."""
    parts = []
    for name in choices("optimizer"):
        text = OmegaConf.to_yaml(OmegaConf.create({"optimizer": _settings("optimizer", name)}))
        code = "\n".join("    " + line for line in ["```yaml", *text.rstrip().splitlines(), "```"])
        parts.append(f'??? note "`{name}`"\n\n{code}')
    return "\n\n".join(parts)


def registry() -> str:
    """The names in code."""
    return ", ".join(f"`{name}`" for name in REGISTRY)


def _cut(estimator: Mapping[str, Any] | None) -> str:
    """Where an estimator cuts the chain rule; the first line of its class says so."""
    if estimator is None:
        return "-"
    first = str(_class(estimator).__doc__).splitlines()[0]
    (where,) = re.findall(r"\(cut (?:at )?(?:the )?(\w+)\)", first)
    return str(where)


def _class(settings: Mapping[str, Any]) -> type:
    module, _, name = settings["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def _short(settings: Mapping[str, Any]) -> str:
    """A class, and what of it is not its default."""
    kind = _class(settings)
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    given = {k: v for k, v in settings.items() if k != "_target_"}
    shown = [f"`{k}={v}`" for k, v in given.items() if v != defaults.get(k) or k == "learning_rate"]
    return ", ".join([f"**{kind.__name__}**", *shown])


def _anchor(name: str) -> str:
    return name.partition("/")[2].lower()


# --- Pages -----------------------------------------------------------------------------------------------------------


def examples() -> str:
    """Every example: what it says of itself, and its code."""
    parts = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text()
        said = str(ast.get_docstring(ast.parse(text)))
        code = text.split('"""', 2)[2].strip()
        # The line that starts it is code.
        said = re.sub(r"^    (python .*)$", r"```bash\n\1\n```", said, flags=re.MULTILINE)
        parts.append(f"## `{path.name}`\n\n{said}\n\n```python\n{code}\n```")
    return "\n\n".join(parts)


def face(name: str) -> str:
    """The reference of a package: everything that its list of names has."""
    package = importlib.import_module(name)
    said = inspect.cleandoc(str(package.__doc__)).split("\n\n")[0].replace("\n", " ")
    shown = sorted((n for n in package.__all__ if n != "register_environments"), key=_kind_first(package))
    return "\n\n".join([said, *(f"::: {name}.{n}" for n in shown)])


def _kind_first(package: Any) -> Callable[[str], tuple[int, str]]:
    """What people look for first, then classes, functions and the rest."""

    def key(name: str) -> tuple[int, str]:
        value = getattr(package, name)
        if name in FIRST:
            return -1, str(FIRST.index(name))
        return (0 if inspect.isclass(value) else 1 if inspect.isfunction(value) else 2), name.lower()

    return key


def version() -> str:
    """Of the package."""
    return f"Version {hgenv.__version__}."


GENERATED: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        environments,
        environment_choices,
        environment_pages,
        optimizers,
        optimizer_settings,
        registry,
        examples,
        face,
        version,
    )
}
