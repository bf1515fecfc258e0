"""Commands about clusters: submit, status, resubmit, cancel."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import CONFIG, commands
from hpctem.cli.training import FOLDER


class CampaignFolder(click.ParamType):
    """A campaign folder, or the campaign file after which `submit` has called one here."""

    name = "folder"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        path = Path(value)
        if path.suffix not in (".yaml", ".yml") or path.is_dir():
            return path.absolute()
        from hpctem.errors import HpctemError
        from hpctem.marked_yaml import read_yaml

        try:
            return Path(str(read_yaml(path).data["campaign"]["name"])).absolute()
        except HpctemError as error:
            self.fail(str(error), param, ctx)
        except (TypeError, LookupError):
            self.fail(f"{path} is no campaign file: it names no campaign", param, ctx)


SUBMITTED = CampaignFolder()


@commands.command()
@click.argument("campaign", type=CONFIG)
@click.option("--site", metavar="NAME|PATH", help="Profile of the cluster; HPCTEM_SITE without it.")
@click.option("--folder", type=FOLDER, help="Campaign folder to make; the campaign's name.")
@click.option(
    "--stages", metavar="NAME,...", help="Only these; those of the file, or the usual three."
)
@click.option("--account", metavar="NAME", help="That pays, instead of the profile's.")
@click.option("--dry-run", is_flag=True, help="Check and write the scripts, submit nothing.")
@click.option(
    "--test-only", is_flag=True, help="First ask Slurm whether it takes each job, and when."
)
@click.option(
    "--no-plan", is_flag=True, help="Do not estimate the time, which may take seconds here."
)
def submit(
    campaign: Path,
    site: str | None,
    folder: Path | None,
    stages: str | None,
    account: str | None,
    dry_run: bool,
    test_only: bool,
    no_plan: bool,
) -> None:
    """Submit a campaign to Slurm as a chain of jobs: simulate, verify, report, train ...

    Everything is checked first: the files, the limits of the site, the disk, and the time by the
    plan. The folder that is made keeps the scripts, logs and states. Each job waits for the one
    before it, goes back into the queue when its time is over, and ends after several starts that
    brought nothing. A folder that was submitted before, and of which nothing is in the queue, keeps
    what is done: more stages are added, other times, nodes or partitions are taken.

    \b
    Examples:
      hpctem submit configs/quickstart.yaml --site cpu
      hpctem submit configs/au_on_carbon_thermal.yaml --site delta --account abcd
      hpctem submit campaign.yaml --site my_cluster.yaml --stages simulate,verify --dry-run
    """
    from hpctem.slurm.again import resubmit as submit_again
    from hpctem.slurm.show import format_prepared
    from hpctem.slurm.sites import read_site
    from hpctem.slurm.submit import Order, prepare, require_slurm, try_chain, write_folder

    name, profile, _ = read_site(site)
    asked = tuple(part.strip() for part in (stages or "").split(",") if part.strip())
    order = Order(campaign, name, profile, folder, asked, account, not no_plan)
    prepared = prepare(order, lambda line: click.echo(f"{line} ...", err=True))
    click.echo(format_prepared(prepared))
    write_folder(prepared)
    if test_only or not dry_run:
        require_slurm(prepared)
    if test_only:
        for stage, answer in try_chain(prepared.folder, prepared.jobs).items():
            click.echo(f"{stage}: {answer}")
    if dry_run:
        click.echo(f"nothing is submitted; the scripts: {prepared.folder / 'scripts'}")
        return
    for line in submit_again(prepared.folder):
        click.echo(line)
    click.echo(f"to follow it: hpctem status {click.format_filename(prepared.folder)}")


@commands.command()
@click.argument("folder", type=SUBMITTED, metavar="FOLDER|CAMPAIGN")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(folder: Path, as_json: bool) -> None:
    """Say how a submitted campaign stands: each stage, how fast, how long, what failed.

    What is done is counted in the database and the training's history; Slurm is asked where it is.
    Exit code 1 when a stage has failed or is lost.

    \b
    Examples:
      hpctem status quickstart
      hpctem status configs/quickstart.yaml
      hpctem status quickstart --json
    """
    from hpctem.slurm.show import describe_standing, format_standing
    from hpctem.slurm.status import look

    standing = look(folder)
    if as_json:
        click.echo(json.dumps(describe_standing(standing), indent=1))
    else:
        click.echo(format_standing(standing))
    if standing.wrong:
        sys.exit(1)


@commands.command()
@click.argument("folder", type=SUBMITTED, metavar="FOLDER|CAMPAIGN")
def resubmit(folder: Path) -> None:
    """Submit again what is missing of a chain; what is done or on its way is left alone.

    \b
    Example:
      hpctem resubmit quickstart
    """
    from hpctem.slurm.again import resubmit as submit_again

    for line in submit_again(folder):
        click.echo(line)


@commands.command()
@click.argument("folder", type=SUBMITTED, metavar="FOLDER|CAMPAIGN")
def cancel(folder: Path) -> None:
    """End all jobs of a chain; what is committed stays, and 'resubmit' goes on.

    \b
    Example:
      hpctem cancel quickstart
    """
    from hpctem.slurm.again import cancel as cancel_all

    for line in cancel_all(folder):
        click.echo(line)
