"""What a campaign file asks of a cluster: stages, their shares, files and arguments."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_campaigns import SMALL, write_campaign

from hpctem.campaign_file import read_campaign
from hpctem.config import check_config, check_stages, resolved
from hpctem.errors import ConfigError, MachineError
from hpctem.marked_yaml import parse_yaml, read_yaml
from hpctem.slurm import checks
from hpctem.slurm.chain import Inside, Share, build_jobs, choose_stages, share_of
from hpctem.slurm.checks import check_time, choose_volumes, estimate
from hpctem.slurm.files import describe_job, move_campaign, read_chain, write_chain
from hpctem.slurm.sites import Site, account_of, check_site
from hpctem.slurm.submit import Order, Prepared, prepare, write_folder

CONFIGS = Path(__file__).parents[2] / "configs"
PROFILE = """\
account: mine
partitions:
  cpu: {walltime: 24h, cores: 32, nodes: 4, memory: 64G}
  single: {walltime: 24h, cores: 8}
  gpu: {walltime: 12h, cores: 16, gpus: 4, nodes: 2}
cpu_partition: cpu
gpu_partition: gpu
array_tasks: 20
"""
SITE = check_site(parse_yaml(PROFILE))


def share(stages: str, stage: str, site: Site = SITE) -> Share:
    document = parse_yaml(f"stages: {stages}", "c.yaml")
    return share_of(stage, choose_stages(check_stages(document), ())[stage], site, document)


def order(tmp_path: Path, stages: str, name: str = "campaign.yaml", **options: Any) -> Order:
    campaign = write_campaign(tmp_path, name=name)
    campaign.write_text(campaign.read_text() + f"stages: {stages}\n")
    options = {"folder": tmp_path / "made", "planned": False} | options
    return Order(campaign, "here", SITE, **options)


def test_stages_are_no_part_of_what_identifies_a_campaign(tmp_path: Path) -> None:
    """So that a campaign goes on when only the time of its jobs is changed."""
    plain = read_campaign(SMALL)
    text = SMALL.read_text() + "stages: {simulate: {nodes: 7, walltime: 2h}, verify: {}}\n"
    (tmp_path / "small.yaml").write_text(text)
    named = read_campaign(tmp_path / "small.yaml")
    assert (named.hash, named.description) == (plain.hash, plain.description)
    assert "stages" not in resolved(named.config)
    assert check_config(parse_yaml(text)) == check_config(parse_yaml(SMALL.read_text()))


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("{simulat: {}}", r"stages.simulat: unknown key; did you mean 'simulate'"),
        ("{simulate: {nods: 2}}", r"stages.simulate.nods: unknown key; did you mean 'nodes'"),
        ("{simulate: {nodes: none}}", r"stages.simulate.nodes"),
        ("{simulate: {volumes: 0}}", "between 1 and 100000"),
        ("{simulate: {partition: 'a b'}}", "stages.simulate.partition"),
        ("{simulate: {memory: lots}}", "stages.simulate.memory"),
        ("[simulate]", "stages: is a section"),
    ],
)
def test_a_mistake_in_stages_is_told_whenever_the_file_is_read(
    tmp_path: Path, stages: str, words: str
) -> None:
    campaign = order(tmp_path, stages).campaign
    with pytest.raises(ConfigError, match=words):
        read_campaign(campaign)


def test_the_usual_stages_are_run_where_none_is_named() -> None:
    stages = check_stages(parse_yaml("campaign: {}"))
    assert list(choose_stages(stages, ())) == ["simulate", "verify", "report"]
    assert list(choose_stages(stages, ("verify", "simulate"))) == ["simulate", "verify"]
    with pytest.raises(ConfigError, match=r"no stage 'simulat'; did you mean 'simulate'"):
        choose_stages(stages, ("simulat",))
    for asked, needed in (
        (("translate",), "translate needs the stage train"),
        (("evaluate",), "evaluate needs the stage train"),
        (("train", "train_translated"), "train_translated needs the stage translate"),
        (("train", "translate", "evaluate"), "evaluate needs the stage train_translated"),
    ):
        with pytest.raises(ConfigError, match=needed):
            choose_stages(stages, asked)


def test_a_stage_that_is_named_without_settings_is_run() -> None:
    stages = check_stages(parse_yaml("stages:\n  simulate:\n  report:\n"))
    assert list(choose_stages(stages, ())) == ["simulate", "report"]


def test_defaults_fill_a_node() -> None:
    found = share("{simulate: {}, verify: {}, report: {}, train: {file: x}}", "simulate")
    assert found == Share("cpu", 1, 32, 1, 0, None, 8 * 3600)
    assert share("{simulate: {threads_per_rank: 4}}", "simulate").ranks_per_node == 8
    assert share("{verify: {}}", "verify").ranks_per_node == 16
    assert share("{report: {}}", "report").ranks_per_node == 1
    assert share("{train: {file: x}}", "train") == Share("gpu", 1, 4, 4, 4, None, 8 * 3600)
    assert share("{train: {file: x, gpus_per_node: 0}}", "train") == Share(
        "cpu", 1, 1, 32, 0, None, 8 * 3600
    )
    assert share("{simulate: {gpus_per_node: 2}}", "simulate") == Share(
        "gpu", 1, 2, 4, 2, None, 8 * 3600
    )
    assert share("{simulate: {walltime: 90min}}", "simulate").seconds == 5400


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("{verify: {partition: cpus}}", r"c.yaml:1:.*no partition 'cpus'; did you mean 'cpu'"),
        ("{verify: {walltime: 25h}}", r"25h is longer than the 24h that partition cpu allows"),
        ("{verify: {walltime: soon}}", r"'soon' is no duration"),
        ("{verify: {ranks_per_node: 33}}", r"more than the 32 cores"),
        ("{verify: {memory: 65G}}", r"65G: a node of partition cpu has 64G"),
        ("{verify: {gpus_per_node: 5}}", r"5: a node of partition gpu has 4 GPUs"),
        ("{verify: {gpus_per_node: 1, partition: cpu}}", r"1: a node of partition cpu has no GPUs"),
        ("{report: {nodes: 2}}", r"report is one process"),
    ],
)
def test_more_than_the_partition_has_is_refused_with_its_limit(stages: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s){words}"):
        share(stages, stages[1:].partition(":")[0])


def test_more_nodes_than_a_job_may_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages.verify.nodes: 5 are more than the 4"):
        prepare(order(tmp_path, "{verify: {nodes: 5}}"))


def test_an_account_is_asked_for_where_one_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SBATCH_ACCOUNT", raising=False)
    text = PROFILE.replace("account: mine", "account_needed: true")
    poor = order(tmp_path, "{simulate: {}}", name="a.yaml")
    poor = Order(poor.campaign, "there", check_site(parse_yaml(text)), poor.folder, planned=False)
    with pytest.raises(ConfigError, match=r"site there takes no job without an account"):
        prepare(poor)
    rich = Order(**{**vars(poor), "account": "abc"})
    assert "#SBATCH --account=abc\n" in prepare(rich).texts["scripts/1-simulate.sbatch"]
    monkeypatch.setenv("SBATCH_ACCOUNT", "abc")
    assert "--account" not in prepare(poor).texts["scripts/1-simulate.sbatch"]


def test_a_partition_may_have_an_account_that_is_named_after_the_usual_one() -> None:
    def pays(partition: str, given: str | None = None, profile: str = PROFILE) -> str | None:
        text = profile.replace("cores: 8}", 'cores: 8, account: "{account}-cpu"}')
        site = check_site(parse_yaml(text.replace("cores: 16,", "cores: 16, account: other,")))
        return account_of(site.partitions[partition], site, given)

    assert [pays(name) for name in ("cpu", "single", "gpu")] == ["mine", "mine-cpu", "other"]
    assert [pays(name, "x") for name in ("cpu", "single", "gpu")] == ["x", "x-cpu", "x"]
    nobody = PROFILE.replace("account: mine\n", "")
    assert (pays("single", profile=nobody), pays("gpu", profile=nobody)) == (None, "other")


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("{subset: {where: dos > 3}}", r"stages.subset.where: .*no column 'dos'; nearest: dose"),
        ("{subset: {stratify: ['dos:0,1 nm']}}", "stages.subset.stratify: .*no column 'dos'"),
        ("{subset: {sample: ['3:dos']}}", "stages.subset.sample: .*no column 'dos'"),
        ("{subset: {per: ['dos:3']}}", "stages.subset.per: .*no column 'dos'"),
        ("{subset: {balance: [dos]}}", "stages.subset.balance: .*no column 'dos'"),
        ("{subset: {combinations: dos}}", "stages.subset.combinations: .*no column 'dos'"),
        ("{subset: {group: dos}}", "stages.subset.group: .*no column 'dos'"),
        ("{train: {file: net.yaml}, evaluate: {by: [dos]}}", "stages.evaluate.by: .*no column"),
        (
            "{subset: {}, train: {file: net.yaml}, evaluate: {part: test}}",
            r"stages.evaluate.part: stages.subset.split has no part 'test' \(known: train, valid",
        ),
    ],
)
def test_what_no_image_of_the_campaign_will_have_is_told_before_it_is_simulated(
    tmp_path: Path, stages: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(full_chain(tmp_path, stages.replace("{", "{simulate: {}, ", 1)))


def test_a_network_needs_tensorflow_where_it_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find(name)
    )
    assert prepare(full_chain(tmp_path, "{simulate: {}}")).jobs
    with pytest.raises(MachineError, match=r"train: there is no TensorFlow in .*hpctem\[train\]"):
        prepare(full_chain(tmp_path, "{simulate: {}, train: {file: net.yaml}}"))


def test_an_array_that_lies_there_is_submitted_again_as_it_was(tmp_path: Path) -> None:
    """More nodes than a job may have made it an array; the second time its volumes say so."""
    asked = order(tmp_path, "{simulate: {nodes: 3, partition: single}}")
    first = prepare(asked)
    assert (first.jobs[0].volumes, first.jobs[0].share.nodes) == (3, 1)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "small.v1of3.hdf5").touch()
    again = prepare(asked)
    assert again.jobs == first.jobs


def test_one_process_gets_memory_for_the_columns_of_many_images() -> None:
    assert share("{report: {}}", "report").memory == "8G"
    assert share("{report: {memory: 2G}}", "report").memory == "2G"
    small = check_site(parse_yaml(PROFILE.replace("memory: 64G", "memory: 6G")))
    assert share("{report: {}}", "report", small).memory == "6G"
    assert share("{report: {partition: single}}", "report").memory is None
    assert share("{verify: {}}", "verify").memory is None


def test_what_is_done_stays_done_until_it_is_asked_for_otherwise(tmp_path: Path) -> None:
    """More time or nodes change nothing; other options of a stage do it and what follows anew."""

    def prepared(stages: str) -> Prepared:
        return prepare(full_chain(tmp_path, stages))

    def finish(made: Prepared, *names: str) -> None:
        write_folder(made)
        for job in made.jobs:
            if job.stage in names:
                path = made.folder / "state" / f"{job.name}.json"
                path.write_text('{"state": "done", "starts": 1, "job": "1"}')

    usual = "{verify: {}, report: {}, subset: {}, train: {file: net.yaml}, evaluate: {}}"
    first = prepared("{simulate: {}, verify: {}, report: {}}")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "small.hdf5").touch()
    finish(first, "verify")
    more = prepared("{verify: {nodes: 3}, train: {file: net.yaml}}")
    assert [job.name for job in more.jobs] == ["2-verify", "5-train"]
    assert more.changed == () and more.jobs[0].share.nodes == 3
    names = ("verify", "report", "subset", "train", "evaluate")
    finish(prepared(usual), *names)
    assert prepared(usual.replace("{verify", "{verify", 1)).changed == ()
    assert prepared(usual.replace("report: {}", "report: {walltime: 2h}")).changed == ()
    other = prepared(usual.replace("subset: {}", "subset: {seed: 3}"))
    assert other.changed == ("subset", "train", "evaluate")
    write_folder(other)
    left = {path.stem for path in (other.folder / "state").glob("*.json")}
    assert left == {"2-verify", "3-report"}
    finish(other, *names)
    longer = full_chain(tmp_path, usual.replace("subset: {}", "subset: {seed: 3}"))
    net = tmp_path / "net.yaml"
    net.write_text(net.read_text().replace("epochs: 1", "epochs: 2"))
    assert prepare(longer).changed == ("train", "evaluate")


def test_a_database_that_does_not_fit_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "free_bytes", lambda folder: 1e6)
    with pytest.raises(ConfigError, match=r"the database needs 2\.\d MiB, .* has 1\.0 MiB free"):
        prepare(order(tmp_path, "{simulate: {}}"))


def plan_of(jobs: int, volumes: int, size: float = 1e9) -> Any:
    schedule = SimpleNamespace(jobs=jobs, volumes=volumes)
    return SimpleNamespace(schedules=[schedule], file=SimpleNamespace(bytes=size))


@pytest.mark.parametrize(
    ("asked", "partition", "nodes", "plan", "volumes", "reason"),
    [
        (1, "cpu", 1, None, 0, "as stages.simulate.volumes says"),
        (6, "cpu", 1, None, 6, "as stages.simulate.volumes says"),
        ("auto", "cpu", 2, None, 0, "nothing is known"),
        ("auto", "single", 3, None, 3, r"single has 1 node\(s\) at most"),
        ("auto", "cpu", 2, plan_of(1, 1), 0, "it is done in its time"),
        ("auto", "cpu", 2, plan_of(3, 4), 4, "one file would take 3 jobs"),
        ("auto", "cpu", 2, plan_of(30, 40), 0, "40 volumes .* more than the site's arrays"),
        ("auto", "cpu", 2, plan_of(1, 1, 40 * 2**40), 3, "the file would have"),
    ],
)
def test_an_array_or_one_job_is_chosen_by_site_and_plan_and_the_reason_told(
    asked: Any, partition: str, nodes: int, plan: Any, volumes: int, reason: str
) -> None:
    wanted = Share(partition, nodes, 8, 1, 0, None, 3600.0)
    choice = choose_volumes(asked, 1000, wanted, SITE, plan)
    assert choice.volumes == volumes
    assert re.search(reason, choice.reason), choice.reason


@pytest.mark.parametrize(
    ("asked", "words"), [(7, r"more than the campaign's 6"), (21, "array_tas")]
)
def test_volumes_beyond_campaign_or_site_are_refused(asked: int, words: str) -> None:
    wanted = Share("cpu", 1, 8, 1, 0, None, 3600.0)
    with pytest.raises(ConfigError, match=words):
        choose_volumes(asked, 6 if asked == 7 else 1000, wanted, SITE, None)


def test_a_walltime_in_which_no_job_gets_on_is_refused_by_the_plan(tmp_path: Path) -> None:
    campaign = read_campaign(SMALL)
    wanted = share("{simulate: {}}", "simulate")
    plan, missing = estimate(campaign, wanted, SITE, "x", tmp_path / "d.hdf5")
    assert plan is not None and not missing
    assert check_time(plan).startswith("time: ")
    one = replace(plan.schedules[0], jobs=0, segment=3600.0)
    slow = replace(plan, schedules=(one,), warnings=("time: no job of 10 min gets done it",))
    with pytest.raises(ConfigError, match=r"stages.simulate.walltime: time: no job of 10 min"):
        check_time(slow)


def test_without_a_calibration_of_its_gpus_there_is_no_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    wanted = share("{simulate: {gpus_per_node: 2}}", "simulate")
    plan, missing = estimate(read_campaign(SMALL), wanted, SITE, "far", tmp_path / "d.hdf5")
    assert plan is None
    assert "no calibration of site far is kept" in missing and "--site far --calibrate" in missing


def test_an_array_is_chosen_where_a_job_has_one_node(tmp_path: Path) -> None:
    made = prepare(order(tmp_path, "{simulate: {nodes: 3, partition: single}, verify: {}}"))
    first, second = made.jobs
    assert (first.volumes, first.share.nodes) == (3, 1)
    assert first.outputs == tuple(f"small.v{n}of3.hdf5" for n in (1, 2, 3))
    assert second.arguments == tuple(map(Inside, first.outputs))
    assert any("array of 3 volumes" in note for note in made.notes)


def test_the_files_that_a_campaign_names_are_found_from_its_folder(tmp_path: Path) -> None:
    """Only these texts change, and what the campaign is stays the same."""
    (tmp_path / "in").mkdir()
    tile = tmp_path / "in" / "film.xyz"
    tile.write_text("1\n\nC 0 0 0\n")
    change = ("substrate: {thickness: {uniform: [6 A, 12 A]}}", "substrate: {tile: 'in/film.xyz' }")
    campaign = write_campaign(tmp_path, change)
    moved = move_campaign(campaign)
    assert moved == campaign.read_text().replace("'in/film.xyz'", f'"{tile}"')
    elsewhere = tmp_path / "other.yaml"
    elsewhere.write_text(moved)
    assert read_yaml(elsewhere).data["structure"]["substrate"]["tile"] == str(tile)
    assert move_campaign(SMALL) == SMALL.read_text()


def test_the_chain_of_the_small_cluster_campaign(tmp_path: Path) -> None:
    made = prepare(Order(CONFIGS / "cluster_small.yaml", "x", SITE, tmp_path / "m", planned=False))
    assert [job.stage for job in made.jobs] == [
        *("simulate", "verify", "report", "subset", "train", "evaluate")
    ]
    evaluate = made.jobs[-1]
    assert evaluate.arguments == (
        *(Inside("cluster_small_network"), Inside("subset.json"), "-o", Inside("evaluation")),
        *("--part", "validation", "--by", "dose"),
    )
    training = read_yaml(write(tmp_path / "t.yaml", made.texts["train.yaml"])).data
    original = read_yaml(CONFIGS / "train_cluster_small.yaml").data
    assert training["data"].pop("subset") == "subset.json"
    original["data"].pop("databases")
    assert training == original


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


TRAININGS = {
    "gan.yaml": """
training: {name: gan, kind: cyclegan}
simulation: {databases: [x.hdf5], patch: 64}
experiment: {images: [mos2.tif, /data/other.dm3]}
generator: {levels: 3}
schedule: {epochs: 1, batch: 1}
""",
    "net.yaml": """
training: {name: net, kind: segmentation, description: "1e5", licence: "yes: 'no' #"}
data: {databases: [x.hdf5], where: dose > 3}
target: {classes: {"12": instances, "No": [a, "null"]}}
network: {name: residual_unet}
schedule: {epochs: 1, batch: 1}
""",
}


def full_chain(tmp_path: Path, stages: str = "", **options: Any) -> Order:
    for name, text in TRAININGS.items():
        (tmp_path / name).write_text(text)
    stages = stages or (
        "{simulate: {volumes: 2}, subset: {where: 'dose > 2'}, train: {file: gan.yaml}, "
        "translate: {}, train_translated: {file: net.yaml}, evaluate: {}}"
    )
    return order(tmp_path, stages, **options)


def test_outputs_of_one_stage_are_the_inputs_of_the_next(tmp_path: Path) -> None:
    """Over a CycleGAN to a network that learns from translated images and is judged on others."""
    made = prepare(full_chain(tmp_path))
    jobs = {job.stage: job for job in made.jobs}
    assert jobs["train"].arguments[:4] == ("cyclegan", Inside("train.yaml"), "-o", Inside("gan"))
    gan = read_yaml(write(tmp_path / "1.yaml", made.texts["train.yaml"])).data
    assert gan["simulation"] == {"patch": 64, "subset": "subset.json"}
    assert gan["experiment"]["images"] == [str(tmp_path / "mos2.tif"), "/data/other.dm3"]
    assert jobs["translate"].volumes == 2
    assert jobs["translate"].arguments == (
        *(Inside("gan"), Inside("small.v*of2.hdf5"), "-o", Inside("translated.v*of2.hdf5")),
    )
    network = jobs["train_translated"]
    assert network.program == "train"
    assert network.drawn[:4] == (
        *(Inside("translated.v1of2.hdf5"), Inside("translated.v2of2.hdf5"), "-o"),
        Inside("translated.subset.json"),
    )
    assert "(dose > 2) AND accepted = 1" in network.drawn
    net = read_yaml(write(tmp_path / "2.yaml", made.texts["train_translated.yaml"])).data
    assert net["data"] == {"subset": "translated.subset.json"}
    assert net["training"]["description"] == "1e5"
    assert net["training"]["licence"] == "yes: 'no' #"
    assert net["target"]["classes"] == {"12": "instances", "No": ["a", "null"]}
    assert jobs["evaluate"].arguments[:2] == (Inside("net"), Inside("translated.subset.json"))
    assert jobs["evaluate"].arguments[-2:] == ("--part", "validation")


def test_a_network_that_learns_from_all_images_cannot_be_judged_on_them(tmp_path: Path) -> None:
    def order_of(stages: str) -> Order:
        made = full_chain(tmp_path, stages)
        net = tmp_path / "net.yaml"
        net.write_text(net.read_text().replace("data: {", "data: {validation: 0, "))
        return made

    with pytest.raises(ConfigError, match=r"stages.evaluate: the network learns from all images"):
        prepare(order_of("{simulate: {}, train: {file: net.yaml}, evaluate: {}}"))
    for stages in (
        "{simulate: {}, subset: {}, train: {file: net.yaml}, evaluate: {}}",
        "{simulate: {}, train: {file: net.yaml}, evaluate: {images: [net.yaml]}}",
    ):
        assert prepare(order_of(stages)).jobs
    assert prepare(
        full_chain(tmp_path, "{simulate: {}, train: {file: net.yaml}, evaluate: {}}")
    ).jobs


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("{train: {}}", "'file' is needed"),
        ("{train: {file: nat.yaml}}", r"no training file .*nat.yaml; did you mean 'net.yaml'"),
        ("{train: {file: gan.yaml}}", "trains cyclegan, but here is a network that can be judged"),
        ("{train: {file: net.yaml}, translate: {}}", "but here is a CycleGAN"),
        ("{train: {file: net.yaml}, evaluate: {images: [no.hdf5]}}", "there is no .*no.hdf5"),
    ],
)
def test_a_training_that_does_not_fit_its_stage_is_refused(
    tmp_path: Path, stages: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(full_chain(tmp_path, stages))


def test_a_campaign_folder_lies_on_the_scratch_of_the_site_with_its_stripes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that sets stripes here writes down how it was called."""
    text = PROFILE + "scratch: $FAST_DISK/mine\nstripes: 8\n"
    scratch = check_site(parse_yaml(text))
    plain = order(tmp_path, "{simulate: {}}", folder=None)
    named = replace(plain, site=scratch)
    monkeypatch.delenv("FAST_DISK", raising=False)
    with pytest.raises(ConfigError, match=r"scratch folder \$FAST_DISK/mine names a variable"):
        prepare(named)
    monkeypatch.setenv("FAST_DISK", str(tmp_path))
    made = prepare(named)
    assert made.folder == tmp_path / "mine" / "small"
    lfs = tmp_path / "lfs"
    lfs.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    lfs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    write_folder(made)
    assert (tmp_path / "called").read_text() == f"setstripe -c 8 {made.folder}\n"
    assert (made.folder / "scripts" / "1-simulate.sbatch").is_file()


def test_the_chain_that_is_kept_is_the_chain(tmp_path: Path) -> None:
    made = prepare(full_chain(tmp_path))
    write_chain(tmp_path, {"jobs": [describe_job(job) for job in made.jobs]})
    assert read_chain(tmp_path)["jobs"] == made.jobs


def test_arguments_of_every_stage_are_what_the_commands_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job's words are parsed by the very command that it runs."""
    import click

    from hpctem.cli import commands

    stages = (
        "{simulate: {}, verify: {}, report: {}, subset: {where: dose > 1, stratify: "
        "['dose:0,1'], combinations: dose, sample: ['2'], per: ['dose:1'], balance: [campaign], "
        "group: dose, allow_fewer: true}, "
        "train: {file: gan.yaml}, translate: {}, train_translated: {file: net.yaml}, "
        "evaluate: {by: [dose]}}"
    )
    for job in prepare(full_chain(tmp_path, stages)).jobs:
        for program, arguments in ((job.program, job.arguments), ("subset", job.drawn)):
            if arguments:
                words = [w.name if isinstance(w, Inside) else w for w in arguments]
                with click.Context(commands) as context:
                    command = commands.get_command(context, program)
                    assert command is not None
                    command.make_context(program, words, parent=context)
    assert build_jobs("empty", {}, {}, {}, 0, ()) == ()
