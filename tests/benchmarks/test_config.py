import csv
import json
import re
import shlex
from itertools import pairwise

import pytest
import torch
import yaml
from hydra.utils import instantiate

from hgenv import DecisionSpace, block, optimizers
from hgenv.benchmarks import config, records
from hgenv.benchmarks.config import RunError, compose
from hgenv.benchmarks.defaults import SettingError
from hgenv.benchmarks.records import RecordError
from hgenv.benchmarks.report.prices import named
from hgenv.benchmarks.run import run
from hgenv.generators import PopulationGenerator

from ..zygote import call
from .tools import REPOSITORY, quadratic

CONFIGS = REPOSITORY / "configs"


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def space(dimension: int = 4) -> DecisionSpace:
    return DecisionSpace([block("place", dimension, -10.0, 10.0, 0.0, "1", "anything")])


# --- Every committed configuration -----------------------------------------------------------------------------------


def check(settings: config.Settings) -> None:
    """It is complete, and what differs from the defaults makes all of it again."""
    assert config.complete(settings.identity) == settings.identity
    little = config.differs(settings.identity)
    assert len(json.dumps(little)) < len(json.dumps(settings.identity))
    assert config.complete(json.loads(json.dumps(little))) == settings.identity
    assert not config.differences(settings.record, settings.identity)
    assert not config.differences(little, settings.identity)


@pytest.mark.parametrize("env", choices("env"))
@pytest.mark.parametrize("network", choices("network"))
@pytest.mark.parametrize("renderer", choices("renderer"))
def test_environments_compose(env, network, renderer):
    parts = {"network": network, "renderer": renderer}
    own = {"quadratic": (), "faces": ("network",), "faces_lit": ("network",)}.get(env, parts)
    settings = compose([f"env={env}", *(f"{part}={parts[part]}" for part in own)])
    check(settings)
    assert settings.identity["env"]["label"] == env
    known, _ = config.env_parameters(settings.identity["env"]["id"])
    assert set(settings.identity["env"]) == {"id", "label", *known}
    assert {"unroll_steps", "batch_size", "max_updates", "rule"} <= set(known)
    assert not {"device", "prober", "render_mode"} & set(known)


@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_optimizers_compose_and_can_be_built(optimizer):
    settings = compose(["env=quadratic", f"optimizer={optimizer}", "seed=3"])
    check(settings)
    assert settings.identity["optimizer"]["label"] == optimizer
    if optimizer == "shape_evolution":
        with pytest.raises(RunError, match=r"cannot be made: ShapeEvolution .* hgenv/ShapePopulation-v0"):
            config.make_optimizer(settings.record, space())
        population = PopulationGenerator(members=2).space
        built = config.make_optimizer(settings.record, population)
        assert torch.allclose(built.recommendation, population.initial)
        return
    built = config.make_optimizer(settings.record, space())
    assert built.recommendation.shape == (4,)
    if optimizer == "random_beta":
        assert settings.identity["optimizer"]["initial"] == "random:3"
        assert built.recommendation.tolist() == pytest.approx(space().random(3).tolist())


def test_every_optimizer_of_the_registry_has_its_file():
    for name, kind in optimizers.REGISTRY.items():
        node = yaml.safe_load((CONFIGS / "optimizer" / f"{name}.yaml").read_text())
        assert config.defaults.find(node["_target_"], "") is kind
        assert node["label"] == name


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g in ("prober", "budget", "experiment") for c in choices(g)])
def test_the_other_groups_compose(group, choice):
    settings = compose([f"{group}={choice}"])
    check(settings)
    if group == "prober" and choice != "auto":
        assert instantiate(settings.where["prober"]) is not None


@pytest.mark.parametrize("network", choices("network"))
def test_networks_and_renderers_can_be_built(network):
    assert instantiate(compose([f"network={network}"]).identity["env"]["network"]).size
    for renderer in ("analytic", "mesh"):
        settings = compose(["env=shapes_lab", f"network={network}", f"renderer={renderer}"])
        generator = instantiate(settings.identity["env"]["generator"], _convert_="all")
        assert generator.space.dimension == 29


def recorded() -> list[tuple[str, dict]]:
    """The settings of every run among the results."""
    found = []
    for path in sorted((REPOSITORY / "benchmarks" / "results").glob("*/runs.csv")):
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                settings = json.loads(line["settings"])
                where = f"{path.parent.name}/{records.environment_label(settings)}/{settings['optimizer']['label']}"
                found.append((f"{where}/{settings['seed']}", settings | {"schema": int(line["schema"])}))
    return found


RECORDED = recorded()


@pytest.mark.skipif(not RECORDED, reason="there are no results")
def test_every_run_among_the_results_can_be_made_again():
    for name, settings in RECORDED:
        assert settings["schema"] == records.SCHEMA, name
        identity = {key: settings[key] for key in config.IDENTITY}
        complete = config.complete(identity)  # refuses what is no setting any more
        assert not config.differences(settings, complete), name
        initial = identity["optimizer"].get("initial")
        dimension = len(initial) if isinstance(initial, list) else 4
        assert config.make_optimizer(identity, space(dimension)).recommendation.shape == (dimension,)


# --- From words to settings ------------------------------------------------------------------------------------------


def test_keys_that_no_file_names_need_no_plus_sign():
    env = compose(["env.batch_size=4", "env.rule.learning_rate=0.2", "env.rule.decay_steps=inf"]).identity["env"]
    assert (env["batch_size"], env["rule"]["learning_rate"], env["rule"]["momentum"]) == (4, 0.2, 0.9)
    assert env["rule"]["decay_steps"] == float("inf")
    optimizer = compose(["optimizer.estimator.sigma=0.1", "optimizer.rule.learning_rate=0.02"]).identity["optimizer"]
    assert (optimizer["estimator"]["sigma"], optimizer["rule"]["learning_rate"]) == (0.1, 0.02)
    assert optimizer["rule"]["momentum"] == 0.9
    adam = compose(["optimizer.rule._target_=optimizers.Adam", "optimizer.shrinkage=null"]).identity["optimizer"]
    assert adam["rule"]["beta2"] == 0.999
    assert adam["shrinkage"] is None
    assert compose(["prober=workers", "prober.count=3"]).where["prober"]["count"] == 3


def test_a_setting_of_a_part_through_another_keeps_the_choice_of_the_part():
    env = compose([
        "network=large", "env.network.units=relu", "renderer=mesh", "env.generator.renderer.shadows=false",
        "env.network.size=96",
    ]).identity["env"]  # fmt: skip
    assert (env["network"]["preset"], env["network"]["units"], env["network"]["size"]) == ("large", "relu", 96)
    renderer = env["generator"]["renderer"]
    assert (renderer["_target_"], renderer["shadows"], renderer["size"]) == (
        "hgenv.rendering.csg.MeshRenderer", False, 96,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("env=quadratic network=large", "network=large would change nothing: the environment quadratic has no network"),
        ("env=quadratic ++network.size=96", "network.size=96 would change nothing: the environment quadratic"),
        ("env=faces renderer=mesh", "renderer=mesh would change nothing: the environment faces has no renderer"),
    ],
)
def test_a_part_that_the_environment_does_not_have_is_refused(words, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        compose(words.split())


def test_a_part_that_another_part_takes_is_no_mistake():
    without = ["env.generator.renderer.size=48", "env.network.units=relu", "network.size=48"]
    assert compose(without).identity["env"]["network"]["size"] == 48


def test_a_name_that_is_near_is_proposed():
    with pytest.raises(SettingError, match=r"no setting 'batchsize'; it has .*; did you mean batch_size\?"):
        compose(["env.batchsize=8"])


def test_what_is_a_group_or_has_a_sign_is_left_alone():
    for word in ("env=shapes", "+env.x=1", "++env.x=1", "~env.x", "seed=1", "experiment=quick", "root=env.x"):
        assert config.override(word) == word
    assert config.override("optimizer.initial=a/seed=0,b/seed=1") == "++optimizer.initial='a/seed=0','b/seed=1'"
    assert config.override("env.light={a: '='}") == "++env.light={a: '='}"


@pytest.mark.parametrize(("word", "message"), [
    ("optimizer.sigmaa=1", "optimizer hybrid_gradient has no setting 'sigmaa'; it has estimator, rule, initial"),
    ("optimizer.estimator.sigmaa=1", "optimizer.estimator Hybrid has no setting 'sigmaa'; it has directions"),
    ("optimizer.estimator.pathwise=perhaps", r"optimizer\.estimator\.pathwise must be true or false, not 'perhaps'"),
    ("optimizer.estimator.pathwise=1", r"optimizer\.estimator\.pathwise must be true or false, not 1"),
    ("optimizer.period=soon", r"optimizer\.period must be a whole number, not 'soon'"),
    ("env.device=cpu", "env hgenv/ShapeNormals-v0 has no setting 'device'"),
    ("env.generator.seed=1", "env.generator ShapeGenerator has no setting 'seed'; it has renderer, depth, lit, light"),
    ("optimizer={label: mine}", "optimizer needs '_target_'"),
    ("optimizer.label=a/b", "optimizer.label must be a name for a folder"),
    ("checkpoint_seconds=often", "checkpoint_seconds must be a finite number"),
])  # fmt: skip
def test_unknown_keys_and_wrong_kinds_are_named(word, message):
    if word.startswith("optimizer={"):
        with pytest.raises(SettingError, match=message):
            config.complete({**compose([]).identity, "optimizer": {"label": "mine"}})
        return
    with pytest.raises(SettingError, match=message):
        compose([word])


# --- Identity --------------------------------------------------------------------------------------------------------


def test_where_a_run_is_made_is_noted_and_may_change(tmp_path):
    folder = run(quadratic(tmp_path, "optimizer=basic_random_search", updates=3))
    noted = yaml.safe_load((folder / "config.yaml").read_text())
    assert noted["schema"] == records.SCHEMA
    assert noted["where"] == {
        "device": "auto", "threads": 1, "prober": None, "cuda_graphs": True, "picture_updates": 50,
    }  # fmt: skip
    (folder / "DONE.json").unlink()
    elsewhere = quadratic(
        tmp_path, "optimizer=basic_random_search", "prober=batched", "device=cpu", "threads=2", "picture_updates=9",
        "checkpoint_seconds=5", updates=3,
    )  # fmt: skip
    assert run(elsewhere) == folder
    assert records.read_done(folder)["where"]["prober"]["_target_"] == "hgenv.probing.Batched"


def test_a_setting_that_came_after_the_record_has_its_default(tmp_path):
    words = ["optimizer=hybrid_gradient"]
    folder = run(quadratic(tmp_path, *words, updates=2))
    path = folder / "config.yaml"
    older = yaml.safe_load(path.read_text())
    del older["optimizer"]["estimator"]["pathwise"], older["optimizer"]["bounds"], older["env"]["batch_size"]
    del older["env"]["rule"]["weight_decay"]
    path.write_text(yaml.safe_dump(older))
    run(quadratic(tmp_path, *words, updates=2))
    for word in ("optimizer.estimator.pathwise=false", "env.batch_size=4", "env.rule.weight_decay=0.1"):
        with pytest.raises(RecordError, match=word.partition("=")[0]):
            run(quadratic(tmp_path, *words, word, updates=2))


def test_a_setting_that_is_no_longer_there_is_a_difference(tmp_path):
    folder = run(quadratic(tmp_path, updates=2))
    path = folder / "config.yaml"
    older = yaml.safe_load(path.read_text())
    older["env"]["colour"] = "red"
    path.write_text(yaml.safe_dump(older))
    with pytest.raises(RecordError, match=r"env.colour: red, \(missing\)"):
        run(quadratic(tmp_path, updates=2))


@pytest.mark.parametrize("schema", [None, 1, 4])
def test_another_schema_is_named(tmp_path, schema):
    folder = run(quadratic(tmp_path, updates=2))
    path = folder / "config.yaml"
    other = yaml.safe_load(path.read_text())
    del other["schema"]
    path.write_text(yaml.safe_dump(other if schema is None else other | {"schema": schema}))
    with pytest.raises(
        RecordError, match=f"is of schema {schema or 1}, and this version of hgenv reads schemas 2 and 3"
    ):
        run(quadratic(tmp_path, updates=2))


# --- Where an optimizer starts ---------------------------------------------------------------------------------------


def test_an_optimizer_can_start_at_what_a_run_recommends(tmp_path, monkeypatch):
    found = run(quadratic(tmp_path, "optimizer=basic_random_search", updates=9))
    last = records.read(found).rows[-1]["recommendation"]
    assert last != [0, 0, 0, 0.5]
    monkeypatch.chdir(tmp_path)
    for path in (found, found.relative_to(tmp_path)):
        settings = quadratic(tmp_path, f"optimizer.initial={path}", f"study={len(str(path))}", updates=1)
        assert settings.identity["optimizer"]["initial"] == last
        assert records.read(run(settings)).rows[-1]["beta"] == pytest.approx(last, rel=1e-6)
    assert quadratic(tmp_path, "optimizer.initial=[0.1, 0, 0, 0.2]").identity["optimizer"]["initial"][0] == 0.1
    with pytest.raises(SettingError, match=r"optimizer.initial must be .*nowhere/config.yaml: there is no such file"):
        quadratic(tmp_path, f"optimizer.initial={tmp_path / 'nowhere'}")
    with pytest.raises(RunError, match=r"optimizer\.initial has 4 numbers, but beta has 29"):
        config.make_optimizer(quadratic(tmp_path, f"optimizer.initial={found}").record, space(29))


# --- Others' parts, and Hydra's own ways -----------------------------------------------------------------------------

MINE = """
import gymnasium
import torch

from hgenv import DataGenEnv
from hgenv.environments.quadratic import QuadraticEnv
from hgenv.generators import QuadraticGenerator
from hgenv.learning import SGD
from hgenv.learning.quadratic import QuadraticLearner
from hgenv.tasks.quadratic import point_data
from hgenv.optimizers import Optimizer


class Blur:
    def __init__(self, size=16, gain=1.0):
        self.size, self.gain = size, gain


class Discs(QuadraticGenerator):
    def __init__(self, renderer, shift=0.0):
        super().__init__()
        self.renderer, self.shift = renderer, shift

    def __call__(self, betas, seeds):
        made = super().__call__(betas, seeds)
        return type(made)(self.renderer.gain * made.image + self.shift, made.target, made.mask)


class DiscsEnv(DataGenEnv):
    def __init__(self, *, generator, colours=("red",), rule=SGD(0.2), **options):
        assert isinstance(colours, (list, tuple))
        data = point_data((0.6, -0.4, 0.5), f"discs, {generator.renderer.gain:g}, {generator.shift:g}")
        super().__init__(generator, QuadraticLearner(), data, data, rule=rule, **options)


class Walk(Optimizer):
    def __init__(self, space, *, seed, initial=None, period=1, stride=0.01):
        super().__init__(space, seed=seed, initial=initial, period=period)
        self.stride = stride

    def improve(self, env):
        self.normalized = self._project(self.normalized + self.stride)


gymnasium.register("Discs-v0", entry_point="mine:DiscsEnv")
"""
FILES = {
    "conf/env/mine.yaml": """
        id: mine:Discs-v0
        label: discs
        generator: {_target_: mine.Discs, renderer: "${renderer}"}
        max_updates: 50
    """,
    "conf/renderer/mine.yaml": "{_target_: mine.Blur, gain: 2.0}",
    "conf/optimizer/mine.yaml": "{_target_: mine.Walk, label: walk}",
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Someone else's folder, with what this repository knows nothing of."""
    folder = tmp_path / "elsewhere"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "__init__.py").write_text(MINE)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(line.removeprefix(" " * 8) for line in text.strip("\n").split("\n")))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{REPOSITORY}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


OWN = [
    "env=mine", "optimizer=mine", "renderer=mine", "budget={amount: 3, unit: updates}", "env.generator.shift=0.5",
]  # fmt: skip


def test_what_is_outside_the_repository_runs(mine):
    done = call(
        "hgenv.benchmarks.run", "--config-dir", "conf", *OWN, "optimizer.stride=0.1", "env.colours=[a,b]", cwd=mine
    )
    assert done.returncode == 0, done.stderr
    folder = mine / "runs" / "default" / "discs" / "walk" / "seed=0"
    record = records.read(folder)
    assert record.rows[0]["data"]["validation"] == "discs, 2, 0.5"
    assert [row["beta"][0] for row in record.rows] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert record.config["env"]["generator"] == {
        "_target_": "mine.Discs", "renderer": {"_target_": "mine.Blur", "size": 16, "gain": 2.0}, "shift": 0.5,
    }  # fmt: skip
    assert record.config["env"]["colours"] == ["a", "b"]
    assert record.config["env"]["batch_size"] == 32
    assert record.config["optimizer"] == {
        "_target_": "mine.Walk", "label": "walk", "initial": None, "period": 1, "stride": 0.1,
    }  # fmt: skip

    # The command that a run notes makes it again.
    words = records.read_done(folder)["command"]
    assert "--config-dir" in words
    again = call(*shlex.split(words), cwd=mine)
    assert "nothing to do" in again.stdout, again.stderr

    wrong = call("hgenv.benchmarks.run", "--config-dir", "conf", *OWN, "optimizer.strid=0.1", cwd=mine)
    assert wrong.returncode != 0
    assert "optimizer Walk has no setting 'strid'; it has initial, period, stride" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_comparisons_take_it_along(mine):
    done = call(
        "hgenv.benchmarks.compare", "--config-dir=conf", *OWN, "optimizer=mine", "seed=1", "study=ours", cwd=mine
    )
    assert done.returncode == 0, done.stderr
    assert len(records.read(mine / "runs" / "ours" / "discs" / "walk" / "seed=1").rows) == 4
    assert "walk" in (mine / "runs" / "ours" / "report.md").read_text()


def test_hydra_s_own_multirun_over_joblib_makes_each_run_in_its_folder(mine):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'hgenv[cluster]' brings it")
    words = [
        "--config-dir", "conf", "--multirun", *OWN, "optimizer=mine,fixed", "study=many", "seed=0,1",
        "hydra/launcher=cores", "hydra.launcher.n_jobs=2",
        "env.batch_size=0,4", "optimizer.label='${optimizer._target_}-${env.batch_size}'",
    ]  # fmt: skip
    done = call("hgenv.benchmarks.run", *words, cwd=mine)
    # Some fail, which does not keep the others from being made.
    assert done.returncode != 0
    assert "batch_size" in done.stderr
    assert "Traceback" not in done.stderr
    for name in ("mine.Walk", "hgenv.optimizers.Fixed"):
        for seed in (0, 1):
            folder = mine / "runs" / "many" / "discs" / f"{name}-4" / f"seed={seed}"
            assert len(records.read(folder).rows) == 4
            assert "--multirun" not in records.read_done(folder)["command"]
    assert len(records.find(mine / "runs")) == 4


def test_hydra_s_questions_are_answered(mine):
    helped = call("hgenv.benchmarks.run", "--help", cwd=mine)
    assert "hybrid_gradient" in helped.stdout
    shown = call("hgenv.benchmarks.run", "--config-dir", "conf", "--cfg", "job", *OWN, "optimizer.stride=0.1", cwd=mine)
    assert yaml.safe_load(shown.stdout)["optimizer"] == {"_target_": "mine.Walk", "label": "walk", "stride": 0.1}
    assert not (mine / "runs").exists()


@pytest.mark.parametrize("name", choices("prices"))
def test_price_lists_compose_and_reports_read_the_same(name):
    prices = compose(["env=quadratic", "budget={amount: 1, unit: priced_seconds}", f"prices={name}"]).budget.prices
    assert prices == named(name)
    assert prices.sample > 0
    assert prices.flop > prices.gradient_flop > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# @package _global_\nseed: 2001-01-01\n", "the setting 'env' is missing"),
        ("a:\n\t- b\n", "no YAML"),
        ("[" * 3000, "no YAML"),
        (
            "a: &a [1]\n" + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in pairwise("abcdefg")),
            "references",
        ),
    ],
)
def test_files_of_ones_own_that_are_no_settings_are_answered_in_words(tmp_path, text, message):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "mine.yaml").write_text(text)
    with pytest.raises(SettingError, match=message):
        compose(["env=mine"], tmp_path)
